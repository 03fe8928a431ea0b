"""Batches from keys: read or looked up, augmented, collated, normalised; bit for bit alike with and without workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse.contract.batch import Batch
from stillhouse.contract.task import SampleMaker
from stillhouse.data.boxes import fit_boxes
from stillhouse.data.sample_errors import (
    MisfitError,
    TransformError,
    check_finite,
    find_form,
    make_misfit_error,
    make_size_error,
    suggest_skipping,
)
from stillhouse.data.sampler import Ids, Key
from stillhouse.data.shaping import Shaping
from stillhouse.data.sources import Source
from stillhouse.data.targets import convert_target, find_size, resize_target
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["Memory", "Samples", "read_shaped"]


@attrs.frozen(eq=False)
class Memory:
    """Samples kept in memory.

    Attributes:
        rows: their inputs, as read and shaped: (M, ...), or a list of M where their shapes differ.
        row_of: the row of each id (N,); -1 where it is not held.
        targets: their targets, as one tensor or a list of M; None for class indices, which the source knows.
    """

    rows: Tensor | list[Tensor]
    row_of: Ids
    targets: Tensor | list[Any] | None = None

    def take(self, ids: Ids) -> Tensor:
        """Copy the rows of ``ids`` (B, ...)."""
        rows = self.row_of[ids]
        if isinstance(self.rows, Tensor):
            return self.rows.index_select(0, torch.from_numpy(rows))
        return torch.stack([self.rows[row] for row in rows])


@attrs.frozen(kw_only=True, eq=False)
class Samples:
    """Makes a :class:`Batch` of a :class:`Key`.

    Attributes:
        source: reads samples.
        shaping: converts every input after reading.
        shape: the shape it must have then, (C, H, W) for images; an entry of -1 may be anything.
        dtype: uint8 or float32, before normalisation.
        first: the sample that shape and dtype were taken from.
        mean: subtracted after scaling to 0 ... 1, broadcast over the shape; None: no normalisation.
        std: divided by.
        seed: the run's seed.
        transforms: augmentation of one input; None in evaluation, unless images are cropped there.
        for_evaluation: replaces ``transforms`` in evaluation.
        read_shape: the shape of inputs in evaluation, which ``transforms`` must keep where targets are class indices.
        memory: the inputs, read already.
        maker: makes input and target of a sample; None: the input as it is, and its class index.
        evaluation: whether randomness follows from the sample alone.
    """

    source: Source
    shaping: Shaping
    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    first: int = 0
    mean: Tensor | None = None
    std: Tensor | None = None
    transforms: Callable[..., Any] | None = None
    for_evaluation: Callable[..., Any] | None = None
    read_shape: tuple[int, ...] = ()
    memory: Memory | None = None
    maker: SampleMaker | None = None
    evaluation: bool = False

    @property
    def direct(self) -> bool:
        """Whether a batch is a single look-up, which workers would only slow down."""
        return self.memory is not None and self.transforms is None and self.maker is None

    @property
    def plain(self) -> Samples:
        """The same without augmentation."""
        return attrs.evolve(self, transforms=self.for_evaluation, evaluation=True)

    def read_input(self, i: int) -> Tensor:
        """Return sample ``i``'s input as read and shaped; see :meth:`read_pair`."""
        if self.memory is not None and self.memory.row_of[i] >= 0:
            return self.memory.rows[self.memory.row_of[i]]
        return self.read(i)[0]

    def read_pair(self, i: int) -> tuple[Tensor, Any]:
        """Return sample ``i``'s input and target as read and shaped, before augmentation and normalisation.

        Raises:
            StillhouseError: it cannot be read, or differs in shape or type from the first training sample.
        """
        if self.memory is not None and self.memory.row_of[i] >= 0:
            row, targets = self.memory.row_of[i], self.memory.targets
            if targets is None:
                return self.memory.rows[row], None if self.source.target == "none" else int(self.source.labels[i])
            return self.memory.rows[row], targets[row]
        x, target = read_shaped(self.source, self.shaping, i)
        form = find_form(x, self.shape)
        if form != (self.shape, self.dtype):
            raise make_misfit_error(
                x, form, self.source.place(i), (self.shape, self.dtype), self.source.place(self.first)
            )
        if -1 in self.shape and (x.shape[1] < self.read_shape[1] or x.shape[2] < self.read_shape[2]):
            raise MisfitError(
                f"the input must be at least crop = {list(self.read_shape[1:])}, got {format_shape(x)}",
                where=self.source.place(i),
                hint="a smaller `crop`, or `size` to resize images first",
            )
        if self.maker is None:  # or the task may have made something of what is not finite
            check_finite(x, self.source.place(i))
        return x, target

    def read(self, i: int) -> tuple[Tensor, Any]:
        """Call :meth:`read_pair`; an error hints how to go on without the sample."""
        try:
            return self.read_pair(i)
        except StillhouseError as error:
            raise suggest_skipping(error) from error.__cause__

    def batch(self, key: Key) -> Batch:
        """Make the batch of ``key``'s samples, in its order.

        Raises:
            StillhouseError: a sample cannot be read, augmented or made.
        """
        ids = torch.from_numpy(key.ids.copy())
        if self.maker is None:
            targets = torch.from_numpy(self.source.labels[key.ids])
            return Batch(self._normalise(self.make_raw(key)), targets, ids)
        inputs, made = self.make_pairs(key)
        differ = next((k for k, x in enumerate(inputs) if x.shape != inputs[0].shape), None)
        if differ is not None:
            raise StillhouseError(
                f"the inputs of a batch must have one shape, got {format_shape(inputs[0])} and {format_shape(inputs[differ])}",
                where=self.source.place(int(key.ids[differ])),
                hint="set `size` or `crop` in [data], or let transforms and the task make one shape",
            )
        try:
            joined = self.maker.collate(made)
        except Exception as error:
            raise self._make_error("collate", int(key.ids[0]), error) from error
        return Batch(self._normalise(torch.stack(inputs)), joined, ids)

    def make_pairs(self, key: Key) -> tuple[list[Tensor], list[Any]]:
        """Make the inputs, from 0 to 1, and targets of ``key``'s samples by the task, one by one."""
        with OwnRandomness() as randomness:
            pairs = [self._make_pair(int(i), key.epoch, randomness) for i in key.ids]
        return [x for x, _ in pairs], [target for _, target in pairs]

    def make_raw(self, key: Key) -> Tensor:
        """Make the inputs of ``key``'s samples (B, ...), augmented, not yet scaled and normalised."""
        if self.memory is not None and self.transforms is None:
            return self.memory.take(key.ids)
        with OwnRandomness() as randomness:
            made = [self._augment(int(i), key.epoch, randomness) for i in key.ids]
        if len({x.dtype for x in made}) > 1:  # a transform that makes floats, and is applied to some samples only
            made = [_scale(x) for x in made]
        return torch.stack(made)

    def _augment(self, i: int, epoch: int, randomness: OwnRandomness) -> Tensor:
        randomness.seed(mix(self.seed, epoch, i))
        x = self.read_input(i)
        if self.transforms is None:
            return x
        out = self._transform(i, self.transforms, x)
        if not isinstance(out, Tensor) or tuple(out.shape) != self.read_shape:
            made = format_shape(out) if isinstance(out, Tensor) else type(out).__name__
            raise StillhouseError(
                f"transforms must keep evaluation's input shape {self.read_shape}: {format_shape(x)} became {made}",
                where="data.transforms",
                hint="set `size` to the shape that they give",
            )
        check_finite(out, self.source.place(i))
        return out

    def _transform(self, i: int, transforms: Callable[..., Any], *what: Any) -> Any:
        try:
            return transforms(*what)
        except TransformError as error:
            raise StillhouseError(
                f"{error.name} fails on {self.source.place(i)}: {type(error.error).__name__}: {error.error}",
                where=error.where,
            ) from error.error
        except Exception as error:
            raise StillhouseError(
                f"transforms fail on {self.source.place(i)}: {type(error).__name__}: {error}", where="data.transforms"
            ) from error

    def _make_pair(self, i: int, epoch: int, randomness: OwnRandomness) -> tuple[Tensor, Any]:
        assert self.maker is not None
        kind = self.source.target
        randomness.seed(mix(i) if self.evaluation else mix(self.seed, epoch, i))
        x, target = self.read(i)
        if self.transforms is not None:
            from stillhouse.data.geometry import Geometry  # torchvision, which a run without transforms does without

            before = x
            x, target = self._transform(i, Geometry(self.transforms, kind), x, target)
            whole = find_size(kind, target)
            if not isinstance(x, Tensor) or x.ndim != before.ndim or (whole and whole != tuple(x.shape[-2:])):
                made = format_shape(x) if isinstance(x, Tensor) else type(x).__name__
                raise StillhouseError(
                    f"transforms must give one image and keep its target's size: {format_shape(before)} became {made}"
                    + (f", its {kind} {whole}" if whole else ""),
                    where="data.transforms",
                    hint="take transforms that move targets along",
                )
        try:
            x, target = self.maker.sample(
                _scale(x) if x.dtype == torch.uint8 else x.clone(), convert_target(kind, target)
            )
        except Exception as error:
            raise self._make_error("sample", i, error) from error
        if not isinstance(x, Tensor):
            raise StillhouseError(f"`sample` must give a tensor as input, got {type(x).__name__}", where="task.name")
        if self.mean is not None and (x.ndim != self.mean.ndim or x.shape[0] != self.mean.shape[0]):
            raise StillhouseError(
                f"transforms must keep evaluation's {self.mean.shape[0]} channels, got an input {format_shape(x)}",
                where="data.transforms",
            )
        check_finite(x, self.source.place(i))
        return x, target

    def _make_error(self, method: str, i: int, error: Exception) -> StillhouseError:
        if isinstance(error, StillhouseError):
            return error.within(self.source.place(i))
        what = f"{type(self.maker).__name__}.{method} fails on {self.source.place(i)}: {type(error).__name__}: {error}"
        return StillhouseError(what, where="task.name")

    def _normalise(self, x: Tensor) -> Tensor:
        x = _scale(x)
        return x if self.mean is None or self.std is None else x.sub_(self.mean).div_(self.std)


def _scale(x: Tensor) -> Tensor:
    """Scale uint8 0 ... 255 to float32 0 ... 1; floats count as scaled."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def read_shaped(source: Source, shaping: Shaping, i: int) -> tuple[Tensor, Any]:
    """Read sample ``i`` of ``source`` and apply ``shaping``, its target resized with it; an error names its place.

    Raises:
        StillhouseError: it cannot be read or converted, or its target has another size.
    """
    x, target = source.pair(i)
    try:
        if source.target == "vector":
            _check_length(source, target)
        if source.target == "boxes":
            target = fit_boxes(target, x.shape[-2], x.shape[-1])
        whole = find_size(source.target, target)
        if whole is not None and whole != tuple(x.shape[-2:]):
            raise make_size_error(x, f"{source.target} {source.target_place(i)}", whole)
        out = shaping(x)
    except StillhouseError as error:
        raise error.within(source.place(i)) from None
    if source.target != "class" and out.shape[-2:] != x.shape[-2:]:
        target = resize_target(source.target, target, (x.shape[-2], x.shape[-1]), (out.shape[-2], out.shape[-1]))
    return out, target


def _check_length(source: Source, target: Tensor) -> None:
    """Refuse a vector of another length than the first one's."""
    if source.vector_length is None:
        first = int(source.splits["train"][0])
        source.vector_length = len(source.pair(first)[1])
    if len(target) != source.vector_length:
        raise StillhouseError(
            f"the target must have {source.vector_length} numbers as the first sample's, got {len(target)}"
        )
