"""Calling a teacher outside of a training step: in eval mode, without gradient, with some of its layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import seeds as rng
from stillhouse.assembly.folded_norms import fold_norms
from stillhouse.contract.batch import Batch
from stillhouse.contract.modes import keep_modes
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults
from stillhouse.layout import format_shape, name_layout
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.outputs import read_output
from stillhouse.teachers.cache.spec import CacheSpec, Pool, dtype_of

__all__ = ["OUTPUT", "pooled", "reading", "tap_name"]

OUTPUT = "output"
"""The name of the array of outputs."""


def tap_name(layer: str) -> str:
    """The name of the array of a layer's features."""
    return f"features/{layer}"


def pooled(x: Tensor, how: Pool) -> Tensor:
    """``x``, vectors (B, C), tokens (B, N, C) or maps (B, C, H, W), pooled, in float32.

    Raises:
        StillhouseError: no layout that is known, or no tokens to take the first of.
    """
    if how == "none":
        return x.float()
    layout = name_layout(x)
    if how == "cls":
        if x.ndim != 3:
            raise StillhouseError(
                f"pool = 'cls' takes the first of the tokens (B, N, C), and the layer gives {layout}",
                hint="pool = 'mean'",
            )
        return x[:, 0].float()
    if x.ndim == 2:
        return x.float()
    return x.float().mean(dim=1 if x.ndim == 3 else (2, 3))


@contextmanager
def reading(
    teacher: nn.Module, task: Task, spec: CacheSpec, device: torch.device, *, fold: bool = True
) -> Iterator[Callable[[Batch], dict[str, Tensor]]]:
    """A function from a batch to the teacher's arrays by name, float32, on the device; modes are put back afterwards.

    ``fold``: with batch normalisations folded, as ``speed.fold_norms`` has it.

    Raises:
        StillhouseError: a layer is not there; later, one that gives no tensor, or cannot be pooled.
    """
    known = [name for name, _ in teacher.named_modules()]
    raise_faults(
        Fault("teacher", f"unknown layer {layer!r}", did_you_mean(layer, filter(None, known)))
        for layer in spec.taps
        if layer not in known
    )
    tapped = TappedModel(
        teacher, "teacher", task, spec.taps, device=device, precision=dtype_of(spec.precision), frozen=True
    )
    first = [True]

    def read(batch: Batch) -> dict[str, Tensor]:
        inputs = batch.input.to(device, non_blocking=True)
        if first[0]:
            if fold:
                fold_norms(tapped, inputs[:2])
            tapped.taps.watch()
        side = tapped(inputs)
        if first[0]:
            first[0] = False
            # What the model itself returns may be a dict, and its reader is found below.
            raise_faults(f for f in tapped.taps.check(side.features) if f.where != "teacher layer ''")
        arrays: dict[str, Tensor] = {}
        for layer in spec.taps:
            arrays[tap_name(layer)] = _features(side.features[layer], layer, spec.pool, len(batch.id))
        if spec.outputs:
            arrays[OUTPUT] = _output(side.output, len(batch.id))
        return arrays

    with tapped, keep_modes(teacher, training=False), rng.preserve_state():
        yield read


def _place(layer: str) -> str:
    return f"teacher, layer {layer!r}" if layer else "teacher"


def _features(x: Any, layer: str, pool: Pool, n: int) -> Tensor:
    if not layer:
        x = read_output(x, "teacher")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise StillhouseError(f"gives {what}, not floating-point features", where=_place(layer))
    try:
        made = pooled(x, pool)
    except StillhouseError as error:
        raise error.within(_place(layer)) from None
    if len(made) != n:
        raise StillhouseError(
            f"must give a row for each of a batch's {n} samples, got {format_shape(x)}",
            where=_place(layer),
            hint="read a layer that keeps the batch first and whole",
        )
    return made


def _output(value: Any, n: int) -> Tensor:
    if not isinstance(value, Tensor) or len(value) != n:
        raise StillhouseError(
            f"gives {type(value).__name__}, and the cache keeps one tensor of one shape for each sample",
            where="teacher",
            hint="a teacher whose forward returns a tensor",
        )
    return value.float()
