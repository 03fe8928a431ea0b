"""Batches from keys: read or looked up, augmented, collated, normalised; bit for bit alike with and without workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.contract.batch import Batch
from stillhouse.contract.task import SampleMaker
from stillhouse.data.draws import Begin, Draws
from stillhouse.data.held import Memory, Seen
from stillhouse.data.looks import make_looks, name_failure, scale
from stillhouse.data.reading import read_shaped
from stillhouse.data.sample_errors import (
    MisfitError,
    TransformError,
    check_finite,
    find_form,
    is_finite,
    make_misfit_error,
    suggest_skipping,
)
from stillhouse.data.sampler import Key
from stillhouse.data.shaping import Shaping
from stillhouse.data.sources import Source
from stillhouse.data.targets import convert_target, find_size
from stillhouse.data.transform_chain import TransformChain
from stillhouse.data.unlabelled import mark
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.seeds import mix_each

__all__ = ["Samples"]

T = TypeVar("T")


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
        transforms: augmentation; None in evaluation, unless images are cropped there.
        for_evaluation: replaces ``transforms`` in evaluation.
        read_shape: the shape of inputs in evaluation, which ``transforms`` must keep where targets are class indices.
        memory: the inputs, read already.
        seen: what was read before training to be looked at; None in training.
        maker: makes input and target of a sample; None: the input as it is, and its class index.
        evaluation: whether randomness follows from the sample alone.
        _draws: what making samples draws from; never another's, as other transforms draw otherwise.
    """

    source: Source
    shaping: Shaping
    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    first: int = 0
    mean: Tensor | None = None
    std: Tensor | None = None
    transforms: TransformChain | None = None
    for_evaluation: TransformChain | None = None
    read_shape: tuple[int, ...] = ()
    memory: Memory | None = None
    seen: Seen | None = None
    maker: SampleMaker | None = None
    evaluation: bool = False
    _draws: Draws = attrs.field(factory=Draws, init=False)

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
        return self.memory.read_input(i) if self.memory is not None and self.memory.holds(i) else self.read(i)[0]

    def read_pair(self, i: int) -> tuple[Tensor, Any]:
        """Return sample ``i``'s input and target as read and shaped, before augmentation and normalisation.

        Raises:
            StillhouseError: it cannot be read, or differs in shape or type from the first training sample.
        """
        if self.memory is not None and self.memory.holds(i):
            x, target = self.memory.read_pair(i)
            return x, int(self.source.labels[i]) if self.source.target == "class" else target
        seen = None if self.seen is None else self.seen.find(i)
        x, target = read_shaped(self.source, self.shaping, i) if seen is None else seen
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
            check_finite(x, self.source, i)
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
        weights = None if self.source.weights is None else torch.from_numpy(self.source.weights[key.ids])
        if self.maker is None:
            targets = torch.from_numpy(self.source.labels[key.ids])
            return Batch(self._normalise(self.make_raw(key)), mark(targets, key.labelled, len(ids)), ids, weights)
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
        return Batch(self._normalise(torch.stack(inputs)), mark(joined, key.labelled, len(ids)), ids, weights)

    def make_pairs(self, key: Key) -> tuple[list[Tensor], list[Any]]:
        """Make the inputs, from 0 to 1, and targets of ``key``'s samples by the task, one by one."""
        pairs = self._make_each(key, self._make_pair)
        return [x for x, _ in pairs], [target for _, target in pairs]

    def make_raw(self, key: Key) -> Tensor:
        """Make the inputs of ``key``'s samples (B, ...), augmented, not yet scaled and normalised."""
        if self.memory is not None and self.transforms is None:
            return self.memory.take(key.ids)
        if self.transforms is not None:
            return make_looks(self.transforms, self._view_inputs(key), key, self.seed, self.read_shape, self.source)
        gathered = self._gather(key)
        return torch.stack(self._make_each(key, self.read_input)) if gathered is None else gathered

    def _view_inputs(self, key: Key) -> list[NDArray[Any]]:
        """Return the inputs of ``key``'s samples as read and shaped, not to be written to."""
        if self.memory is not None and self.memory.holds_all(key.ids):
            return self.memory.view(key.ids)
        gathered = self._gather(key)
        inputs = self._make_each(key, self.read_input) if gathered is None else gathered
        return [x.numpy() for x in inputs]

    def _make_each(self, key: Key, make: Callable[[int], T]) -> list[T]:
        """Call ``make`` for each of ``key``'s samples, whose draws follow from (seed, epoch, sample)."""

        def make_all(begin: Begin | None) -> list[T]:
            made = []
            for row, i in enumerate(key.ids.tolist()):
                if begin is not None:
                    begin(row)
                made.append(make(i))
            return made

        return self._draws.make(lambda: self._seeds(key), make_all)

    def _seeds(self, key: Key) -> list[int]:
        of_sample = self.evaluation and self.maker is not None
        seeds = mix_each(ids=key.ids) if of_sample else mix_each(self.seed, key.epoch, ids=key.ids)
        listed: list[int] = seeds.tolist()
        return listed

    def _gather(self, key: Key) -> Tensor | None:
        """Read the inputs of ``key``'s samples at once; None where it can't be, or one is amiss: by itself it is named."""
        if not self.shaping.keeps_all:
            return None
        x = self._draws.make(lambda: self._seeds(key), lambda begin: self.source.gather(key.ids, begin))
        if x is None or tuple(x.shape[1:]) != self.shape or x.dtype != self.dtype or not is_finite(x):
            return None
        return x

    def _transform(self, i: int, transforms: Callable[..., Any], *what: Any) -> Any:
        try:
            return transforms(*what)
        except TransformError as error:
            raise name_failure(error, self.source.place(i)) from error.error
        except Exception as error:
            raise StillhouseError(
                f"transforms fail on {self.source.place(i)}: {type(error).__name__}: {error}", where="data.transforms"
            ) from error

    def _make_pair(self, i: int) -> tuple[Tensor, Any]:
        assert self.maker is not None
        kind = self.source.target
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
                scale(x) if x.dtype == torch.uint8 else x.clone(), convert_target(kind, target)
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
        check_finite(x, self.source, i)
        return x, target

    def _make_error(self, method: str, i: int, error: Exception) -> StillhouseError:
        if isinstance(error, StillhouseError):
            return error.within(self.source.place(i))
        what = f"{type(self.maker).__name__}.{method} fails on {self.source.place(i)}: {type(error).__name__}: {error}"
        return StillhouseError(what, where="task.name")

    def _normalise(self, x: Tensor) -> Tensor:
        x = scale(x)
        return x if self.mean is None or self.std is None else x.sub_(self.mean).div_(self.std)
