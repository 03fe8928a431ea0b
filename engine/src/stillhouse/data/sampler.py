"""Orders of samples that resume exactly: a sample's augmentation in an epoch depends on (seed, epoch, sample) alone.

Nothing here has a state that a checkpoint would have to keep: the order of an epoch comes from (seed, epoch), a
sample's augmentation from (seed, epoch, sample), so that a stream which starts at step N gives what an
uninterrupted one gives from step N on, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.errors import StillhouseError
from stillhouse.seeds import mix

__all__ = ["EpochBatches", "Key", "OrderedBatches", "draw_balanced", "shuffle_epoch", "shuffle_shards"]

Ids = NDArray[np.int64]
"""Ids of samples: positions in their source."""


def shuffle_epoch(seed: int, epoch: int, n: int) -> Ids:
    """Return the permutation of 0 ... n-1 that follows from (seed, epoch)."""
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(n, generator=generator).numpy()


def draw_balanced(seed: int, epoch: int, labels: Ids) -> Ids:
    """Return the positions (N,) of an epoch in which each class of ``labels`` (N,) comes equally often, up to one sample.

    It follows from (seed, epoch). A small class comes round and round, each time whole and in another order, and of a large
    one as many samples as are due, others in other epochs.
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch, _BALANCED))
    classes = np.unique(labels)
    due = np.full(len(classes), len(labels) // len(classes))
    more = torch.randperm(len(classes), generator=generator)[: len(labels) % len(classes)].numpy()
    due[more] += 1
    chosen = []
    for label, number in zip(classes, due, strict=True):
        own = np.flatnonzero(labels == label)
        rounds = -(-int(number) // len(own))
        drawn = [own[torch.randperm(len(own), generator=generator).numpy()] for _ in range(rounds)]
        chosen.append(np.concatenate(drawn)[:number] if drawn else own[:0])
    every: Ids = np.concatenate(chosen)[torch.randperm(len(labels), generator=generator).numpy()]
    return every


def shuffle_shards(seed: int, epoch: int, shards: Ids, buffer: int) -> Ids:
    """Return a permutation of 0 ... N-1 that reads shards nearly from their beginnings to their ends.

    It follows from (seed, epoch). The shards follow one another in a random order, each as it lies, and a sample comes up to
    ``buffer`` places later than its turn, evenly distributed: so mix those that a buffer of that size mixes.

    Args:
        seed: the run's seed.
        epoch: the epoch.
        shards: the shard of each sample (N,), whose samples are in the order in which they lie.
        buffer: how many samples are mixed with each other; 1 mixes none.
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch, _SHARDS))
    _, number = np.unique(shards, return_inverse=True)
    turn = torch.randperm(int(number.max()) + 1, generator=generator).numpy()
    lie: Ids = np.argsort(turn[number], kind="stable")
    late = torch.rand(len(shards), generator=generator, dtype=torch.float64).numpy() * buffer
    mixed: Ids = lie[np.argsort(np.arange(len(shards)) + late, kind="stable")]
    return mixed


_BALANCED = 0xBA1
"""Sets its random numbers apart from those of :func:`shuffle_epoch`."""
_SHARDS = 0x5A4D
"""As well."""


class Key(NamedTuple):
    """The epoch and the samples of one batch.

    Attributes:
        epoch: the epoch whose randomness its samples get.
        ids: the samples (B,), in order.
        labelled: how many of them, the first ones, are drawn with their labels; None: all, of a batch that knows no others.
    """

    epoch: int
    ids: Ids
    labelled: int | None = None


@attrs.frozen(kw_only=True, eq=False)
class EpochBatches:
    """The endless stream of training batches' keys, from step ``start_step`` on.

    Attributes:
        ids: the training samples (N,).
        batch_size: samples in a batch.
        drop_last: leave out an epoch's last batch when it is smaller. A last batch of one sample is left out always:
            batch statistics need two. A training set smaller than one batch gives one batch of all its samples.
        seed: the run's seed.
        start_step: number of batches taken before.
        rank: this process's number; it gets its share of every batch.
        world: how many processes there are. All shares of a batch have one size: where an epoch's last batch cannot
            be shared evenly, up to ``world - 1`` of its samples are left out, and the whole of it where a share would
            be a single sample.
        labels: of the training samples (N,): each class comes equally often in an epoch; None: each sample comes once.
        shards: of the training samples (N,): they come shard by shard; None: in any order.
        buffer: of samples in shards, how many are mixed: see :func:`shuffle_shards`.

    Raises:
        StillhouseError: ``batch_size`` is not a multiple of ``world``.
    """

    ids: Ids
    batch_size: int
    drop_last: bool
    seed: int
    start_step: int = 0
    rank: int = 0
    world: int = 1
    labels: Ids | None = None
    shards: Ids | None = None
    buffer: int = 1

    def __attrs_post_init__(self) -> None:
        if self.batch_size % self.world:
            raise StillhouseError(
                f"must be a multiple of the number of processes, {self.world}, got {self.batch_size}",
                where="data.batch_size",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        whole, rest = divmod(len(self.ids), self.batch_size)
        return max(1, whole if self.drop_last else whole + (rest // self.world > 1))

    def __iter__(self) -> Iterator[Key]:
        epoch, skip = divmod(self.start_step, self.steps_per_epoch)
        while True:
            order = self.ids[self._order(epoch)]
            for step in range(skip, self.steps_per_epoch):
                yield Key(epoch, self._share(order[step * self.batch_size : (step + 1) * self.batch_size]))
            epoch, skip = epoch + 1, 0

    def _order(self, epoch: int) -> Ids:
        if self.labels is not None:
            return draw_balanced(self.seed, epoch, self.labels)
        if self.shards is not None:
            return shuffle_shards(self.seed, epoch, self.shards, self.buffer)
        return shuffle_epoch(self.seed, epoch, len(self.ids))

    def _share(self, ids: Ids) -> Ids:
        # Every world-th sample: the first rows of all shares together are the first rows of the batch.
        return ids[: len(ids) // self.world * self.world][self.rank :: self.world] if self.world > 1 else ids


@attrs.frozen(kw_only=True, eq=False)
class OrderedBatches:
    """Every sample once, in order: the keys of an evaluation.

    Attributes:
        ids: the samples (N,), of all processes.
        batch_size: samples in a batch of this process; the last one holds the rest.
        rank: this process's number; it gets every ``world``-th sample.
        world: how many processes there are. All of them get the same number of batches of the same sizes; where
            the samples cannot be shared evenly, the last row is one that another process has as well.

    Raises:
        StillhouseError: fewer samples than processes.
    """

    ids: Ids
    batch_size: int
    rank: int = 0
    world: int = 1

    def __attrs_post_init__(self) -> None:
        if len(self.ids) < self.world:
            raise StillhouseError(
                f"a split must have at least one sample a process, got {len(self.ids)} for {self.world} processes",
                where="data",
                hint="start fewer processes",
            )

    @property
    def real(self) -> int:
        """The number of this process's own samples: all rows but the one that may be padding."""
        return len(range(self.rank, len(self.ids), self.world))

    def _list_starts(self) -> list[int]:
        rows = -(-len(self.ids) // self.world)
        starts = list(range(0, rows, self.batch_size))
        if self.world > 1 and len(starts) > 1 and rows - starts[-1] == 1:
            starts.pop()  # a batch of nothing but a row that fills up would have nothing to measure
        return starts

    def __len__(self) -> int:
        return len(self._list_starts())

    def __iter__(self) -> Iterator[Key]:
        own = self.ids[self.rank :: self.world]
        rows = -(-len(self.ids) // self.world)
        if len(own) < rows:
            own = np.append(own, self.ids[-1])
        starts = self._list_starts()
        for start, end in zip(starts, [*starts[1:], rows], strict=True):
            yield Key(0, own[start:end])
