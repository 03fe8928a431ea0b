"""Data: streams of batches for training and evaluation."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator

import attrs
import ignite.distributed as idist
import numpy as np

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.base import Data
from stillhouse.data.by_id import Passes, RepeatedViews
from stillhouse.data.sampler import EpochBatches, Ids, Key, OrderedBatches
from stillhouse.data.samples import Samples
from stillhouse.data.streams import stream
from stillhouse.data.unlabelled import UNLABELLED, PoolBatches, count_unlabelled
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["SampledData"]


class SampledData(Data):
    """Batches of the samples of a source, in an order that follows from (seed, epoch)."""

    def __init__(
        self,
        spec: DataSpec,
        info: DataInfo,
        samples: Samples,
        splits: dict[str, Ids],
        pin: bool,
        notes: tuple[str, ...] = (),
    ) -> None:
        if spec.sampling == "balanced" and info.target != "class":
            what = f"'balanced' needs targets of kind 'class', got {info.target!r}"
            raise StillhouseError(what, where="data.sampling", hint="leave it out")
        if spec.sampling == "shards" and samples.source.shards is None:
            what = f"'shards' needs data in shards, and those of {spec.name} lie each by itself"
            raise StillhouseError(what, where="data.sampling", hint='name = "shards:PATTERN"')
        self.info, self.notes = info, notes
        self._spec, self._samples, self._splits, self._pin = spec, samples, splits, pin
        self._plain = samples.plain
        self._unlabelled = splits.pop(UNLABELLED) if spec.has_unlabelled else None
        self._streams: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
        self._views = 0
        pool = {} if self._unlabelled is None else {UNLABELLED: self._unlabelled}
        self._passes = Passes(spec, info, samples, splits | pool, stream=self._stream)

    @property
    def weight_range(self) -> tuple[float, float] | None:
        """See :attr:`Data.weight_range`."""
        weights = self._samples.source.weights
        return None if weights is None else (float(weights.min()), float(weights.max()))

    @property
    def passes(self) -> Passes:
        """See :attr:`Data.passes`."""
        return self._passes

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: ``train`` and those for evaluation."""
        return tuple(self._splits)

    @property
    def transforms(self) -> tuple[tuple[str, bool], ...]:
        """Training's transforms in order: the class of each, and whether it works on a whole batch at once."""
        chain, together = self._samples.transforms, self._samples.maker is None and len(self.info.input_shape) == 3
        return () if chain is None else tuple((t.name, together and t.form is not None) for t in chain.transforms)

    @property
    def views(self) -> int:
        """The number of augmented views of a sample, chosen by epoch modulo this; 0: a new one each epoch."""
        return self._views

    def repeat_looks(self, views: int) -> None:
        """Have training give each sample ``views`` different looks, those that a cache keeps; 0 asks for nothing.

        Raises:
            StillhouseError: another number was asked for before.
        """
        if views and self._views not in (0, views):
            raise StillhouseError(
                f"{views} views are asked for, and another plugin asks for {self._views}", hint="one number for both"
            )
        self._views = views or self._views

    def _looks(self, keys: Iterable[Key]) -> Iterable[Key]:
        return RepeatedViews(keys, self._views) if self._views else keys

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch, at least 1."""
        return self._make_training_keys(0).steps_per_epoch

    def _make_training_keys(self, start_step: int) -> EpochBatches:
        source, train = self._samples.source, self._splits["train"]
        return EpochBatches(
            ids=train,
            batch_size=self._spec.batch_size,
            drop_last=self._spec.drop_last,
            seed=self._samples.seed,
            start_step=start_step,
            rank=idist.get_rank(),
            world=idist.get_world_size(),
            labels=source.labels[train] if self._spec.sampling == "balanced" else None,
            shards=source.shards[train] if self._spec.sampling == "shards" and source.shards is not None else None,
            buffer=self._spec.buffer,
        )

    def _make_pool_keys(self, start_step: int) -> Iterable[Key]:
        """The keys of training batches, with unlabelled samples where there are some."""
        keys = self._make_training_keys(start_step)
        if self._unlabelled is None:
            return keys
        return PoolBatches(
            keys=keys,
            start_step=start_step,
            ids=self._unlabelled,
            ratio=self._spec.unlabelled_ratio,
            most=self._count_share(),
            seed=keys.seed,
            rank=keys.rank,
            world=keys.world,
        )

    @property
    def unlabelled_in_batch(self) -> int:
        """See :attr:`Data.unlabelled_in_batch`."""
        if self._unlabelled is None:
            return 0
        world = idist.get_world_size()
        return world * count_unlabelled(self._spec.unlabelled_ratio, self._count_share())

    def _count_share(self) -> int:
        """Labelled samples in this process's largest batch."""
        return min(self._spec.batch_size, len(self._splits["train"])) // idist.get_world_size()

    def example(self, n: int = 2, split: str = "train") -> Batch:
        """Return ``n`` samples of ``split``, evenly spaced; repeated when there are fewer.

        They are not augmented, unless augmentation gives training another size than evaluation. Of a run with unlabelled
        samples those of ``train`` have as many of these behind them as training has, at least two.
        """
        key = Key(0, _space_evenly(self._splits[split], n))
        if split == "train" and self._unlabelled is not None:
            more = max(2, count_unlabelled(self._spec.unlabelled_ratio, n))
            key = Key(0, np.concatenate([key.ids, _space_evenly(self._unlabelled, more)]), n)
        plain = split != "train" or self.info.input_shape == self.info.eval_shape
        samples = self._plain if plain else self._samples
        return samples.batch(key)

    def training(self, start_step: int = 0) -> Iterator[Batch]:
        """Stream training batches without end, from global step ``start_step`` on, as if the earlier ones had been taken.

        Raises:
            StillhouseError: on the way, when a sample cannot be read or augmented.
        """
        return self._stream(self._samples, self._looks(self._make_pool_keys(start_step)))

    def evaluation(self, split: str) -> Iterable[Batch]:
        """Return the batches of ``split``: every sample once, in order, unaugmented; sized, and iterable more than once.

        Raises:
            StillhouseError: there is no such split.
        """
        if split not in self._splits:
            raise StillhouseError(f"the data has no split {split!r}", hint=did_you_mean(split, self._splits))
        size = self._spec.eval_batch_size or self._spec.batch_size
        rank, world = idist.get_rank(), idist.get_world_size()
        keys = OrderedBatches(ids=self._splits[split], batch_size=max(1, size // world), rank=rank, world=world)
        return _Evaluation(self, keys)

    def _stream(self, samples: Samples, keys: Iterable[Key]) -> Iterator[Batch]:
        made = stream(samples, keys, self._spec.workers, self._pin, self._spec.prefetch)
        self._streams.add(made)
        return made

    def close(self) -> None:
        """End every stream and its workers."""
        for made in list(self._streams):
            made.close()


def _space_evenly(ids: Ids, n: int) -> Ids:
    """``n`` of ``ids``, evenly spaced; repeated when there are fewer."""
    rows = np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(np.int64)
    spaced: Ids = ids[np.resize(rows, n)]
    return spaced


@attrs.frozen(eq=False)
class _Evaluation:
    data: SampledData
    keys: OrderedBatches

    @property
    def real(self) -> int:
        """The number of this process's own samples: with several processes the last one may be padding."""
        return self.keys.real

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        return self.data._stream(self.data._plain, self.keys)
