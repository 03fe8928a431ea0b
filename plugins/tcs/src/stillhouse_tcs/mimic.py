"""The mimicking term's module, which reads rows of the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.contract.step import Side, Step
from stillhouse.data import PartlyLabelled
from stillhouse.teachers.cache import TeacherCache, tap_name
from stillhouse_tcs.axes import Axes
from stillhouse_tcs.head import CoordinateHead, FittableModule
from stillhouse_tcs.losses import elsh, pca_mse, soft_targets

__all__ = ["Bits", "Mimic", "read_teacher_rows"]

_CHUNK = 4096
_FOR_MEDIANS = 16_384
"""Rows from which the medians of the hashes are taken, evenly spaced."""


def read_teacher_rows(
    cache: TeacherCache, layer: str, axes: Axes, most: int, among: NDArray[Any] | None = None
) -> tuple[Tensor, NDArray[Any]]:
    """Centred and scaled features (M, d), float32, of up to ``most`` of the samples ``among``, and their ids (M,).

    Args:
        cache: the teacher's.
        layer: of which layer.
        axes: whose mean is taken away, before anything is rounded, and by whose scale they are divided.
        most: evenly spaced, where there are more.
        among: ids; None: all that are cached.
    """
    ids = cache.ids if among is None else among
    if len(ids) > most:
        ids = ids[np.linspace(0, len(ids) - 1, most).astype(np.int64)]
    return cache.take(tap_name(layer), torch.from_numpy(ids), centre=axes.centre) / axes.scale, ids


class Bits:
    """The teacher's hash bits of every cached sample, packed by eights: they are looked up instead of computed.

    Args:
        cache: the teacher's features.
        layer: of which layer.
        axes: whose mean is taken from them, and by whose scale they are divided.
        vectors: the hash (d, H).
        bias: (H,).
    """

    def __init__(self, cache: TeacherCache, layer: str, axes: Axes, vectors: Tensor, bias: Tensor) -> None:
        name, vectors, bias = tap_name(layer), vectors.cpu(), bias.cpu()
        packed = np.empty((cache.views, len(cache), -(-len(bias) // 8)), dtype=np.uint8)
        for view in range(cache.views):
            for start in range(0, len(cache), _CHUNK):
                rows = cache.rows(name, start, start + _CHUNK, view, centre=axes.centre) / axes.scale
                bits = (torch.addmm(bias, rows, vectors) > 0).numpy()
                packed[view, start : start + len(rows)] = np.packbits(bits, axis=1, bitorder="little")
        self._count = len(bias)
        self._packed = TeacherCache(cache.ids, {"bits": packed}, None, folder=None, was_there=True)
        self._shifts = torch.arange(8, dtype=torch.uint8)

    def take(self, ids: Tensor, epoch: int, device: torch.device) -> Tensor:
        """The bits (B, H) of ``ids`` (B,), float32 on ``device``."""
        packed = self._packed.take("bits", ids, epoch, device).to(torch.uint8)
        if self._shifts.device != device:
            self._shifts = self._shifts.to(device)
        bits = (packed.unsqueeze(2) >> self._shifts) & 1
        return bits.flatten(1)[:, : self._count].float()


class Mimic(FittableModule):
    """The mimicking loss: its buffers and the teacher's cache.

    Args:
        kind: ``pca_mse``, ``elsh``, ``logits`` or ``none``.
        layer: the teacher's.
        cache: its features; None where the module is only to be loaded into.
        labelled_alone: leave a batch's unlabelled images out.
        axes: the coordinate system, where there is a cache.
        paths: the student's layers that give its features in the teacher's space and its coordinates.
    """

    def __init__(
        self,
        kind: str,
        layer: str,
        cache: TeacherCache | None,
        *,
        axes: Axes | None = None,
        labelled_alone: bool = False,
        paths: tuple[str, str] | None = None,
        head: CoordinateHead | None = None,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.kind, self.cache = kind, cache
        self._axes, self._labelled_alone = axes, labelled_alone
        self._name, self._paths, self._temperature = tap_name(layer), paths, temperature
        self._head = (head,)  # in a tuple: it is the student's, and no submodule of this one
        self._bits: Bits | None = None

    @property
    def head(self) -> CoordinateHead | None:
        """The student's path, if it has one."""
        return self._head[0]

    def hold(self, **tensors: Tensor) -> None:
        """Register buffers: ``scale`` and, by kind, ``hash`` and ``hash_bias``, or ``probe`` (C, d) and ``probe_bias``."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def hash_with(self, vectors: Tensor, layer: str) -> None:
        """Take ``vectors`` (d, H) for the hash: its bias is minus the median over the teacher's features, centred."""
        assert self.cache is not None  # a hash is made where there is one
        assert self._axes is not None  # which come of it
        some, _ = read_teacher_rows(self.cache, layer, self._axes, _FOR_MEDIANS)
        # In slices of the hashes: all at once would be 128 MiB for 2,048 of them.
        bias = torch.cat([-(some @ part).median(0).values for part in torch.split(vectors, 256, 1)])
        self.hold(hash=vectors, hash_bias=bias)
        self._bits = Bits(self.cache, layer, self._axes, vectors, bias)

    def term(self, step: Step) -> Tensor:
        """The loss of the step's samples, a scalar on the device."""
        student, ids, epoch = step.student, step.ids, step.epoch
        if self._labelled_alone and isinstance(step.targets, PartlyLabelled):
            output, features, ids = step.targets.select((student.output, dict(student.features), ids))
            student = Side(output, features)
        cache, device = self.cache, student.output.device
        assert cache is not None  # a run that trains has one
        if self.kind == "elsh":
            assert self._bits is not None  # it was built with the hash
            assert self._paths is not None  # which a path comes with
            bits = self._bits.take(ids, epoch, device)
            return elsh(student.features[self._paths[0]], bits, self.get_buffer("hash"), self.get_buffer("hash_bias"))
        assert self._axes is not None  # which come of it
        with torch.no_grad():
            teacher = cache.take(self._name, ids, epoch, device, self._axes.centre) / self.get_buffer("scale")
        if self.kind == "logits":
            logits = torch.addmm(self.get_buffer("probe_bias"), teacher, self.get_buffer("probe").T)
            return soft_targets(student.output, logits, self._temperature)
        assert self.head is not None  # the plugin refuses pca_mse without a path
        assert self._paths is not None  # which has layers
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            coordinates = self.head.project(teacher)
        live = self.head.readout.live
        return pca_mse(student.features[self._paths[1]], coordinates, live, self.head.energy)
