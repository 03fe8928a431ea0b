"""From keys to batches: read or look up, augment, collate, normalise; with workers or without, bit for bit alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse.contract.batch import Batch
from stillhouse.contract.task import SampleMaker
from stillhouse.data.augmentation import TransformError
from stillhouse.data.geometry import Geometry
from stillhouse.data.images import Shaping
from stillhouse.data.sample_errors import MisfitError, form_of, misfit, skippable
from stillhouse.data.sample_maker import AsGiven
from stillhouse.data.sampler import Ids, Key
from stillhouse.data.sources import Source
from stillhouse.data.targets import finished, resized, spatial
from stillhouse.errors import StillhouseError
from stillhouse.layout import shape_text
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["AsGiven", "Memory", "SampleMaker", "Samples", "shaped"]


@attrs.frozen(eq=False)
class Memory:
    """Samples that were read already.

    Attributes:
        rows: their inputs, as read and shaped: (M, ...), or a list of M where their shapes differ.
        row_of: the row of each id (N,); -1 where it is not held.
        targets: their targets, as one tensor or a list of M; None for class indices, which the source knows.
    """

    rows: Tensor | list[Tensor]
    row_of: Ids
    targets: Tensor | list[Any] | None = None

    def take(self, ids: Ids) -> Tensor:
        """The rows of ``ids``, copied (B, ...)."""
        rows = self.row_of[ids]
        if isinstance(self.rows, Tensor):
            return self.rows.index_select(0, torch.from_numpy(rows))
        return torch.stack([self.rows[row] for row in rows])


@attrs.frozen(kw_only=True, eq=False)
class Samples:
    """What makes a :class:`Batch` of a :class:`Key`.

    Attributes:
        source: where samples are read.
        shaping: what every input goes through after reading.
        shape: what it must have then, for images (C, H, W); an entry of -1 may be anything.
        dtype: uint8 or float32, before normalisation.
        first: the sample that shape and type are those of.
        mean: subtracted after scaling to 0 ... 1, broadcast over the shape; None: no normalisation.
        std: divided by.
        seed: the run's seed.
        transforms: augmentation of one input; None in evaluation, unless images are cropped there.
        for_evaluation: what stands in the place of ``transforms`` in evaluation.
        read_shape: what evaluation reads: the shape that ``transforms`` must keep where targets are class indices.
        memory: the inputs, read already.
        maker: makes input and target of what was read; None: the input as it is, and its class index.
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
        """Whether a batch is one look-up, so that workers would only be in the way."""
        return self.memory is not None and self.transforms is None and self.maker is None

    @property
    def plain(self) -> Samples:
        """The same without augmentation."""
        return attrs.evolve(self, transforms=self.for_evaluation, evaluation=True)

    def input_of(self, i: int) -> Tensor:
        """Sample ``i`` as read and shaped: see :meth:`pair_of`."""
        if self.memory is not None and self.memory.row_of[i] >= 0:
            return self.memory.rows[self.memory.row_of[i]]
        return self.read(i)[0]

    def pair_of(self, i: int) -> tuple[Tensor, Any]:
        """Sample ``i``'s input and target as read and shaped, before augmentation and normalisation.

        Raises:
            StillhouseError: it cannot be read, or differs in shape or type from the first training sample.
        """
        if self.memory is not None and self.memory.row_of[i] >= 0:
            row, targets = self.memory.row_of[i], self.memory.targets
            if targets is None:
                return self.memory.rows[row], None if self.source.target == "none" else int(self.source.labels[i])
            return self.memory.rows[row], targets[row]
        x, target = shaped(self.source, self.shaping, i)
        form = form_of(x, self.shape)
        if form != (self.shape, self.dtype):
            raise misfit(x, form, self.source.place(i), (self.shape, self.dtype), self.source.place(self.first))
        if -1 in self.shape and (x.shape[1] < self.read_shape[1] or x.shape[2] < self.read_shape[2]):
            raise MisfitError(
                f"the input {shape_text(x)} is smaller than crop = {list(self.read_shape[1:])}",
                where=self.source.place(i),
                hint="a smaller `crop`, or `size` to resize images first",
            )
        return x, target

    def read(self, i: int) -> tuple[Tensor, Any]:
        """:meth:`pair_of` where not all are read first: a fault says by itself how to go on without its sample."""
        try:
            return self.pair_of(i)
        except StillhouseError as error:
            raise skippable(error) from error.__cause__

    def batch(self, key: Key) -> Batch:
        """The batch of ``key``'s samples, in its order.

        Raises:
            StillhouseError: a sample cannot be read, augmented or made.
        """
        ids = torch.from_numpy(key.ids.copy())
        if self.maker is None:
            targets = torch.from_numpy(self.source.labels[key.ids])
            return Batch(self._normalised(self.raw(key)), targets, ids)
        inputs, made = self.made(key)
        differ = next((k for k, x in enumerate(inputs) if x.shape != inputs[0].shape), None)
        if differ is not None:
            raise StillhouseError(
                f"the inputs of one batch have shapes {shape_text(inputs[0])} and {shape_text(inputs[differ])}",
                where=self.source.place(int(key.ids[differ])),
                hint="set `size` or `crop` in [data], or let transforms and the task make one shape",
            )
        try:
            joined = self.maker.collate(made)
        except Exception as error:
            raise self._failed("collate", int(key.ids[0]), error) from error
        return Batch(self._normalised(torch.stack(inputs)), joined, ids)

    def made(self, key: Key) -> tuple[list[Tensor], list[Any]]:
        """The inputs, from 0 to 1, and targets of ``key``'s samples as the task makes them, one by one."""
        with OwnRandomness() as randomness:
            pairs = [self._made(int(i), key.epoch, randomness) for i in key.ids]
        return [x for x, _ in pairs], [target for _, target in pairs]

    def raw(self, key: Key) -> Tensor:
        """The inputs of ``key``'s samples (B, ...), augmented and not yet scaled and normalised."""
        if self.memory is not None and self.transforms is None:
            return self.memory.take(key.ids)
        with OwnRandomness() as randomness:
            made = [self._augmented(int(i), key.epoch, randomness) for i in key.ids]
        if len({x.dtype for x in made}) > 1:  # a transform that makes floats, and is applied to some samples only
            made = [_scaled(x) for x in made]
        return torch.stack(made)

    def _augmented(self, i: int, epoch: int, randomness: OwnRandomness) -> Tensor:
        randomness.seed(mix(self.seed, epoch, i))
        x = self.input_of(i)
        if self.transforms is None:
            return x
        out = self._transformed(i, self.transforms, x)
        if not isinstance(out, Tensor) or tuple(out.shape) != self.read_shape:
            made = shape_text(out) if isinstance(out, Tensor) else type(out).__name__
            raise StillhouseError(
                f"they make {made} of {shape_text(x)}, and evaluation reads {self.read_shape}",
                where="data.transforms",
                hint="keep the shape, or set `size` to what they give",
            )
        return out

    def _transformed(self, i: int, transforms: Callable[..., Any], *what: Any) -> Any:
        try:
            return transforms(*what)
        except TransformError as error:
            raise StillhouseError(
                f"{error.name} fails on {self.source.place(i)}: {type(error.error).__name__}: {error.error}",
                where=error.where,
            ) from error.error
        except Exception as error:
            raise StillhouseError(
                f"they fail on {self.source.place(i)}: {type(error).__name__}: {error}", where="data.transforms"
            ) from error

    def _made(self, i: int, epoch: int, randomness: OwnRandomness) -> tuple[Tensor, Any]:
        assert self.maker is not None
        kind = self.source.target
        randomness.seed(mix(i) if self.evaluation else mix(self.seed, epoch, i))
        x, target = self.read(i)
        if self.transforms is not None:
            before = x
            x, target = self._transformed(i, Geometry(self.transforms, kind), x, target)
            whole = spatial(kind, target)
            if not isinstance(x, Tensor) or x.ndim != before.ndim or (whole and whole != tuple(x.shape[-2:])):
                made = shape_text(x) if isinstance(x, Tensor) else type(x).__name__
                raise StillhouseError(
                    f"they make {made} of {shape_text(before)}" + (f" and {whole} of its {kind}" if whole else ""),
                    where="data.transforms",
                    hint="use transforms that give one image, and take its target along",
                )
        try:
            x, target = self.maker.sample(_scaled(x) if x.dtype == torch.uint8 else x.clone(), finished(kind, target))
        except Exception as error:
            raise self._failed("sample", i, error) from error
        if not isinstance(x, Tensor):
            raise StillhouseError(f"its sample gives {type(x).__name__} as input, not a tensor", where="task.name")
        if self.mean is not None and (x.ndim != self.mean.ndim or x.shape[0] != self.mean.shape[0]):
            raise StillhouseError(
                f"they make an input {shape_text(x)}, and evaluation reads one of {self.mean.shape[0]} channels",
                where="data.transforms",
                hint="keep the channels",
            )
        return x, target

    def _failed(self, method: str, i: int, error: Exception) -> StillhouseError:
        if isinstance(error, StillhouseError):
            return error.within(self.source.place(i))
        what = f"{type(self.maker).__name__}.{method} fails on {self.source.place(i)}: {type(error).__name__}: {error}"
        return StillhouseError(what, where="task.name")

    def _normalised(self, x: Tensor) -> Tensor:
        x = _scaled(x)
        return x if self.mean is None or self.std is None else x.sub_(self.mean).div_(self.std)


def _scaled(x: Tensor) -> Tensor:
    """uint8 0 ... 255 as float32 0 ... 1; floats are taken as scaled."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def shaped(source: Source, shaping: Shaping, i: int) -> tuple[Tensor, Any]:
    """Sample ``i`` of ``source`` after ``shaping``, its target resized with it; a fault names its place.

    Raises:
        StillhouseError: it cannot be read or converted, or its target has another size.
    """
    x, target = source.pair(i)
    try:
        if source.target == "vector":
            _check_length(source, target)
        if source.target == "boxes":
            _check_inside(target["boxes"], x)
        whole = spatial(source.target, target)
        if whole is not None and whole != tuple(x.shape[-2:]):
            raise StillhouseError(
                f"the image is {_size(tuple(x.shape[-2:]))} and its {source.target} {source.target_place(i)}is "
                f"{_size(whole)} (width x height)",
                hint="one size for both",
            )
        out = shaping(x)
    except StillhouseError as error:
        raise error.within(source.place(i)) from None
    if source.target != "class" and out.shape[-2:] != x.shape[-2:]:
        target = resized(source.target, target, (x.shape[-2], x.shape[-1]), (out.shape[-2], out.shape[-1]))
    return out, target


def _check_inside(boxes: Tensor, x: Tensor) -> None:
    """Boxes lie in the image, but for a pixel of rounding: others are in other units, or another image's."""
    height, width = x.shape[-2:]
    outside = (boxes < -1).any(1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)
    if bool(outside.any()):
        shown = ", ".join(f"{value:g}" for value in boxes[outside][0].tolist())
        raise StillhouseError(
            f"{int(outside.sum())} of {len(boxes)} boxes leave the image, {width}x{height} (width x height), such as {shown}",
            hint="x1, y1, x2, y2 in pixels of this image",
        )


def _check_length(source: Source, target: Tensor) -> None:
    """All vectors have the length of the first one that was read."""
    if source.vector_length is None:
        first = int(source.splits["train"][0])
        source.vector_length = len(source.pair(first)[1])
    if len(target) != source.vector_length:
        raise StillhouseError(
            f"the target has {len(target)} numbers, and the first one has {source.vector_length}",
            hint="as many for every sample",
        )


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}" if len(size) == 2 else str(size)
