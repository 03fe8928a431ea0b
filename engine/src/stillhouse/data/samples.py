"""From keys to batches: read or look up, augment, collate, normalise; with workers or without, bit for bit alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple, TypeVar

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stillhouse.data.images import Shaping
from stillhouse.data.sampling import Ids, Key, OwnRandomness, mix
from stillhouse.data.sources import Source
from stillhouse.errors import StillhouseError
from stillhouse.layout import shape_text

__all__ = ["Batch", "Memory", "Samples", "from_workers", "shaped", "stream"]

T = TypeVar("T")


class Batch(NamedTuple):
    """One batch.

    Attributes:
        input: float32, for images (B, C, H, W).
        target: class indices (B,), int64.
        id: the samples' ids (B,), int64: positions in their source, whatever the epoch, the split or the subset.
    """

    input: Tensor
    target: Tensor
    id: Tensor


@attrs.frozen(eq=False)
class Memory:
    """Samples that were read already.

    Attributes:
        rows: their inputs (M, ...), as read and shaped.
        row_of: the row of each id (N,); -1 where it is not held.
    """

    rows: Tensor
    row_of: Ids

    def take(self, ids: Ids) -> Tensor:
        """The rows of ``ids``, copied (B, ...)."""
        return self.rows.index_select(0, torch.from_numpy(self.row_of[ids]))


@attrs.frozen(kw_only=True, eq=False)
class Samples:
    """What makes a :class:`Batch` of a :class:`Key`.

    Attributes:
        source: where samples are read.
        shaping: what every input goes through after reading.
        shape: what it must have then, for images (C, H, W).
        dtype: uint8 or float32, before normalisation.
        mean: subtracted after scaling to 0 ... 1, broadcast over the shape; None: no normalisation.
        std: divided by.
        seed: the run's seed.
        transforms: augmentation of one sample; None in evaluation.
        memory: the inputs, read already.
    """

    source: Source
    shaping: Shaping
    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    mean: Tensor | None = None
    std: Tensor | None = None
    transforms: Callable[[Tensor], Tensor] | None = None
    memory: Memory | None = None

    @property
    def direct(self) -> bool:
        """Whether a batch is one look-up, so that workers would only be in the way."""
        return self.memory is not None and self.transforms is None

    def input_of(self, i: int) -> Tensor:
        """Sample ``i`` as read and shaped, before augmentation and normalisation.

        Raises:
            StillhouseError: it cannot be read, or differs in shape or type from the first training sample.
        """
        if self.memory is not None and self.memory.row_of[i] >= 0:
            return self.memory.rows[self.memory.row_of[i]]
        x = shaped(self.source, self.shaping, i)
        if tuple(x.shape) != self.shape:
            first = self.source.place(int(self.source.splits["train"][0]))
            raise StillhouseError(
                f"the input has shape {shape_text(x)}, and {first} has {self.shape}",
                where=self.source.place(i),
                hint=_way_to_one_shape(tuple(x.shape), self.shape),
            )
        if x.dtype != self.dtype:
            raise StillhouseError(
                f"the input is {_name(x.dtype)}, and the first one is {_name(self.dtype)}", where=self.source.place(i)
            )
        return x

    def batch(self, key: Key) -> Batch:
        """The batch of ``key``'s samples, in its order.

        Raises:
            StillhouseError: a sample cannot be read or augmented.
        """
        targets = torch.from_numpy(self.source.labels[key.ids])
        return Batch(self._normalised(self.raw(key)), targets, torch.from_numpy(key.ids.copy()))

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
        try:
            out = self.transforms(x)
        except Exception as error:
            raise StillhouseError(
                f"they fail on {self.source.place(i)}: {type(error).__name__}: {error}", where="data.transforms"
            ) from error
        if not isinstance(out, Tensor) or tuple(out.shape) != self.shape:
            made = shape_text(out) if isinstance(out, Tensor) else type(out).__name__
            raise StillhouseError(
                f"they make {made} of {shape_text(x)}, and evaluation reads {self.shape}",
                where="data.transforms",
                hint="keep the shape, or set `size` to what they give",
            )
        return out

    def _normalised(self, x: Tensor) -> Tensor:
        x = _scaled(x)
        return x if self.mean is None or self.std is None else x.sub_(self.mean).div_(self.std)


def _scaled(x: Tensor) -> Tensor:
    """uint8 0 ... 255 as float32 0 ... 1; floats are taken as scaled."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def shaped(source: Source, shaping: Shaping, i: int) -> Tensor:
    """Sample ``i`` of ``source`` after ``shaping``; a fault names its place."""
    x = source.read(i)
    try:
        return shaping(x)
    except StillhouseError as error:
        raise error.within(source.place(i)) from None


def _way_to_one_shape(shape: tuple[int, ...], first: tuple[int, ...]) -> str:
    if len(shape) != 3 or len(first) != 3:
        return "all samples need one shape"
    size = f"size = [{first[1]}, {first[2]}]" if shape[1:] != first[1:] else ""
    channels = f"channels = {max(first[0], shape[0])}" if shape[0] != first[0] else ""
    return "set " + " and ".join(filter(None, (size, channels))) + " in [data]"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def stream(samples: Samples, keys: Iterable[Key], workers: int, pin: bool) -> Generator[Batch]:
    """The batches of ``keys``, made here (0 workers) or ahead of time in ``workers`` processes, one thread each.

    The global random generators are not touched. Workers live as long as the generator.

    Args:
        samples: what makes a batch.
        keys: the batches, in order; may have no end.
        workers: processes; none are started where a batch is only looked up.
        pin: put batches into page-locked memory, for copies to CUDA.

    Raises:
        StillhouseError: a sample cannot be read or augmented, here or in a worker.
    """
    for batch in from_workers(samples.batch, keys, 0 if samples.direct else workers):
        yield Batch(*(t.pin_memory() for t in batch)) if pin else batch


def from_workers(make: Callable[[Key], T], keys: Iterable[Key], workers: int) -> Generator[T]:
    """``make(key)`` for each of ``keys``, in order, here or ahead of time in ``workers`` processes.

    Raises:
        StillhouseError: ``make`` did, here or in a worker, with all its faults.
    """
    if workers == 0:
        yield from map(make, keys)
        return
    loader: DataLoader[Any] = DataLoader(
        _Guarded(make),  # type: ignore[arg-type]  # any object with __getitem__ serves
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # its own: without one, DataLoader draws a seed from the global generator
    )
    for made in loader:
        if isinstance(made, StillhouseError):
            raise made
        yield made


@attrs.frozen(eq=False)
class _Guarded:
    """Gives an error as a value: DataLoader would re-raise it as its type with its text alone, and lose the faults."""

    make: Callable[[Key], Any]

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.make(key)
        except StillhouseError as error:
            return error


def _as_it_is(made: Any) -> Any:
    return made
