"""Data from loaders of one's own: their batches are taken as they are, and become what the task trains on."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import attrs
import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.contract.protocols import SamplesById
from stillhouse.contract.task import SampleMaker
from stillhouse.data.base import Data
from stillhouse.data.given import Given
from stillhouse.data.given_batches import BatchReader, hash_tensors
from stillhouse.data.inspection import describe_layout
from stillhouse.data.labels import count_labels, find_class_names, find_listed_labels
from stillhouse.data.streams import pin_batches
from stillhouse.errors import StillhouseError, StillhouseWarning, did_you_mean
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["LoaderData"]

_LEN = "__len__ must be the number of batches of an epoch; an IterableDataset's workers must share its samples out"
_TRAINING, _EVALUATION = 0x7A1, 0xE7A
"""Set the random numbers of an epoch's batches, and of those that are measured, apart."""


class LoaderData(Data):
    """Batches of loaders.

    What a loader draws from torch's, numpy's and Python's global generators, its order among it, follows from (seed, epoch),
    and samplers are told the epoch by ``set_epoch``. So a stream that starts within an epoch reads the epoch's batches from
    its first one on and leaves out those that were taken: a run resumes exactly, but for a loader with a generator of its own.

    Args:
        spec: the recipe's ``[data]``, as :func:`stillhouse.data.given.describe_given` gives it.
        given: the loaders.
        task: makes inputs and targets of samples; None: class indices as they are.
        seed: the run's seed.
        pin: put batches into page-locked memory.

    Raises:
        StillhouseError: batches of no form that is known, unknown classes, several processes.
    """

    def __init__(self, spec: DataSpec, given: Given, task: SampleMaker | None, *, seed: int, pin: bool) -> None:
        if idist.get_world_size() > 1:
            raise StillhouseError(
                f"loaders are read by one process, and there are {idist.get_world_size()}",
                where="data",
                hint="hand over the data sets",
            )
        self._loaders, self._seed, self._pin = given.parts, seed, pin
        self._streams: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
        self._ended: set[str] = set()
        firsts = {name: self._draw_first(name) for name in self._loaders}
        self._reader = BatchReader.of(firsts["train"], spec.args, self._find_names(), task)
        self._first = {name: self._reader.read(raw, name, 0, 0) for name, raw in firsts.items()}
        again = hash_tensors(self._draw_first("train"))
        # Workers that are kept are begun with a draw more.
        kept = getattr(self._loaders["train"], "persistent_workers", False)
        self.repeats = again == hash_tensors(self._draw_first("train") if kept else firsts["train"])
        """Whether a loader gives the same batches again where the global generators are the same."""
        self.notes = tuple(filter(None, [describe_layout(self._first["train"].input.shape[1:])]))
        self.info = self._describe(spec, again if self.repeats else b"")

    def _draw_first(self, split: str) -> Any:
        with OwnRandomness() as randomness:
            randomness.seed(mix(_EVALUATION))
            tell_epoch(self._loaders[split], 0)
            for batch in self._loaders[split]:
                return batch
        raise StillhouseError(
            "gives no batch", where=f"data[{split!r}]", hint=f"its length is {len(self._loaders[split])}"
        )

    def _find_names(self) -> tuple[str, ...]:
        """Find the classes' names, or as many numbers as the labels that a data set lists have; none where nothing is known."""
        dataset = getattr(self._loaders["train"], "dataset", None)
        names = find_class_names(dataset)
        if names:
            return names
        listed = find_listed_labels(dataset)
        return () if listed is None or not len(listed) else tuple(map(str, range(int(listed.max()) + 1)))

    def _describe(self, spec: DataSpec, content: bytes) -> DataInfo:
        sizes = {name: self._count(name) for name in self._loaders}
        shapes = [tuple(self._first[name].input.shape[1:]) for name in ("train", "val") if name in self._first]
        reader = self._reader
        listed = find_listed_labels(getattr(self._loaders["train"], "dataset", None))
        told = [spec.name, spec.args, reader.class_names, sizes, shapes, reader.kind]
        return DataInfo(
            classes=len(reader.class_names),
            class_names=reader.class_names,
            input_shape=shapes[0],
            sizes=sizes,
            fingerprint=hash_tensors([repr(told).encode(), content]).hex(),
            target=reader.kind,
            class_counts=count_labels(listed, len(reader.class_names))
            if listed is not None and len(listed) == sizes["train"] and reader.kind == "class"
            else (),
            target_shape=reader.target_shape,
            ignore=reader.spec.ignored,
            eval_shape=shapes[-1],
        )

    def _count(self, split: str) -> int:
        """Count a split's samples; those of a loader that says nothing of them are taken to fill batches like its first."""
        loader, batches = self._loaders[split], len(self._loaders[split]) * len(self._first[split].id)
        chooser = getattr(loader, "batch_sampler", None)
        if isinstance(chooser, Sequence):
            return sum(map(len, chooser))
        if type(loader) is DataLoader and chooser is None:  # what its sampler and its data set count are batches
            return batches
        for part in (
            getattr(chooser, "sampler", None),
            *(getattr(loader, name, None) for name in ("sampler", "dataset")),
        ):
            try:
                return min(len(part), batches)  # type: ignore[arg-type]  # where it has no length it raises
            except (TypeError, NotImplementedError):
                continue
        return batches

    @property
    def splits(self) -> tuple[str, ...]:
        """See :attr:`Data.splits`."""
        return tuple(self._loaders)

    @property
    def weight_range(self) -> tuple[float, float] | None:
        """See :attr:`Data.weight_range`: of the first batch."""
        weights = self._first["train"].weight
        return None if weights is None else (float(weights.min()), float(weights.max()))

    @property
    def passes(self) -> SamplesById:
        """Refuse: the samples have no numbers.

        Raises:
            StillhouseError: always.
        """
        raise StillhouseError(
            "the samples of a loader have no numbers, by which this could go over them, or remember them",
            where="data",
            hint="hand over the data set: train(recipe, data=loader.dataset)",
        )

    def repeat_looks(self, views: int) -> None:
        """Refuse looks that come again.

        Raises:
            StillhouseError: where any are asked for.
        """
        if views:
            raise StillhouseError("a loader's looks do not come again", where="data", hint="hand over the data set")

    @property
    def steps_per_epoch(self) -> int:
        """See :attr:`Data.steps_per_epoch`: the loader's length."""
        return len(self._loaders["train"])

    def example(self, n: int = 2, split: str = "train") -> Batch:
        """See :meth:`Data.example`: out of the split's first batch."""
        batch = self._first[split]
        rows = torch.from_numpy(np.resize(np.arange(min(n, len(batch.id))), n))
        target = batch.target
        if isinstance(target, list):
            target = [target[row] for row in rows.tolist()]
        elif isinstance(target, Tensor):
            target = target[rows]
        return Batch(batch.input[rows], target, batch.id[rows], None if batch.weight is None else batch.weight[rows])

    def training(self, start_step: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.training`."""
        if start_step and not self.repeats:
            warnings.warn(
                "the training loader draws from a generator of its own: the run goes on with other batches than one that was "
                "not interrupted",
                StillhouseWarning,
                stacklevel=2,
            )
        return self._stream(self._train(start_step))

    def _train(self, start_step: int) -> Generator[Batch]:
        epoch, skip = divmod(start_step, self.steps_per_epoch)
        while True:
            yield from self._go_through("train", (self._seed, _TRAINING, epoch), epoch, skip)
            epoch, skip = epoch + 1, 0

    def evaluation(self, split: str) -> Iterable[Batch]:
        """See :meth:`Data.evaluation`: as often as it is gone through, with the same draws from the global generators."""
        if split not in self._loaders:
            raise StillhouseError(f"the data has no split {split!r}", hint=did_you_mean(split, self._loaders))
        return _Evaluation(self, split)

    def _go_through(self, split: str, seed: tuple[int, ...], epoch: int, skip: int = 0) -> Generator[Batch]:
        """Go through a loader once, from its batch ``skip`` on; the global generators are its own while it works."""
        loader, seen = self._loaders[split], 0
        batches: Iterator[Any] = iter(())
        told = len(loader)
        most = told if split == "train" else _find_most(loader)
        for step in range(most):
            with OwnRandomness() as randomness:
                randomness.seed(mix(*seed, step))
                if step == 0:  # with its workers a loader draws its order here, and without them at the first batch
                    tell_epoch(loader, epoch)
                    batches = iter(loader)
                try:
                    raw = next(batches)
                except StopIteration:
                    if step >= told:
                        return
                    what = f"ended after {step} batches, and its length says {told}"
                    raise StillhouseError(what, where=f"data[{split!r}]", hint=_LEN) from None
                except Exception as error:
                    error.add_note(f"in batch {step} of the loader data[{split!r}]")
                    raise
                if step == most - 1:
                    self._look_for_more(batches, split)
                if step < skip:
                    seen += self._reader.count(raw)
                    continue
                batch = self._reader.read(raw, split, step, seen)
            seen += len(batch.id)
            yield batch

    def _look_for_more(self, batches: Iterator[Any], split: str) -> None:
        """Look once whether a loader goes on after as many batches as its length says: nobody would ever see those."""
        if split in self._ended:
            return
        self._ended.add(split)
        if next(batches, None) is None:
            return
        what = f"goes on after the {len(self._loaders[split])} batches of its length"
        if split != "train":
            raise StillhouseError(what, where=f"data[{split!r}]", hint=_LEN)
        # Some loaders never end, and their length is what somebody calls an epoch.
        warnings.warn(
            f"data['train'] {what}: the others are left out, in each epoch ({_LEN})", StillhouseWarning, stacklevel=2
        )

    def _stream(self, made: Generator[Batch]) -> Generator[Batch]:
        stream = pin_batches(made) if self._pin else made
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """See :meth:`Data.close`; the loaders stay as they are."""
        for made in list(self._streams):
            made.close()


def _find_most(loader: Any) -> int:
    """Find how many batches there may be: each worker of an IterableDataset has a last one of its own, which torch counts once."""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset) and loader.num_workers > 1:
        return loader.num_workers * (len(loader) + 1)
    return len(loader)


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tell samplers, a loader and its data set the epoch, where they have ``set_epoch``."""
    parts = (loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")))
    for part in parts:
        told = getattr(part, "set_epoch", None)
        if callable(told):
            told(epoch)


@attrs.frozen(eq=False)
class _Evaluation:
    data: LoaderData
    split: str

    def __iter__(self) -> Iterator[Batch]:
        return self.data._stream(self.data._go_through(self.split, (_EVALUATION,), 0))
