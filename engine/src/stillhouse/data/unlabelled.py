"""Unlabelled samples beside labelled ones: a second source's behind the first's, and which of them each batch gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.data.draws import Begin
from stillhouse.data.sampler import Ids, Key, shuffle_epoch
from stillhouse.data.sources import Part, Source
from stillhouse.errors import StillhouseError
from stillhouse.nested import PartlyLabelled
from stillhouse.seeds import mix

__all__ = ["UNLABELLED", "JoinedSource", "PoolBatches", "choose_pool", "count_unlabelled", "mark"]

UNLABELLED = "unlabelled"
"""The name of the unlabelled samples among the splits."""


class JoinedSource(Source):
    """The samples of one source, and behind them, without their targets, the training samples of another.

    Args:
        labelled: the first one: classes, targets and splits are its own.
        more: the other.
    """

    def __init__(self, labelled: Source, more: Source) -> None:
        self._labelled, self._more, self._first = labelled, more, len(labelled.labels)
        self.class_names, self.target, self.spec = labelled.class_names, labelled.target, labelled.spec
        self.labels = np.concatenate([labelled.labels, np.zeros(len(more.labels), dtype=np.int64)])
        self.splits = {**labelled.splits, UNLABELLED: more.splits["train"] + self._first}
        self.pure = labelled.pure and more.pure
        self.doubtful = (*labelled.doubtful, *(i + self._first for i in more.doubtful))
        if labelled.weights is not None:  # nobody counts those of the others
            self.weights = np.concatenate([labelled.weights, np.ones(len(more.labels), dtype=np.float32)])
        if labelled.shards is not None:  # the others' order is another
            self.shards = np.concatenate([labelled.shards, np.zeros(len(more.labels), dtype=np.int64)])
        if labelled.stamp is not None and more.stamp is not None:
            self.stamp = hashlib.sha256(labelled.stamp + more.stamp).digest()

    def _find(self, i: int) -> tuple[Source, int]:
        return (self._labelled, i) if i < self._first else (self._more, i - self._first)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        source, own = self._find(i)
        return source.read(own)

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`; an unlabelled sample's target is blank, of the labelled ones' form."""
        if i < self._first:
            return self._labelled.pair(i)
        x = self._more.read(i - self._first)
        return x, self._make_blank(x)

    def _make_blank(self, x: Tensor) -> Any:
        like = self._example
        if self.target == "boxes":
            return {key: value[:0] for key, value in like.items()}
        if not isinstance(like, Tensor):  # a class index, or nothing
            return like
        if self.target == "vector":
            return torch.zeros_like(like)
        ignored = None if self.spec is None else self.spec.ignored
        return like.new_full((*like.shape[:-2], *x.shape[-2:]), ignored or 0 if self.target == "mask" else 0)

    @cached_property
    def _example(self) -> Any:
        """A target whose form the others have."""
        if self.target == "class":
            return 0
        return None if self.target == "none" else self._labelled.pair(int(self._labelled.splits["train"][0]))[1]

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        source, own = self._find(i)
        return source.place(own)

    def gather(self, ids: Ids, begin: Begin | None) -> Tensor | None:
        """See :meth:`Source.gather`: each source's samples at once, where all of one come before all of the other."""
        own = ids < self._first
        count = int(own.sum())
        if not own[:count].all():
            return None
        parts = []
        for source, some, start in ((self._labelled, ids[:count], 0), (self._more, ids[count:] - self._first, count)):
            if len(some):
                parts.append(source.gather(some, None if begin is None else _shift(begin, start)))
        if any(x is None for x in parts) or len({(x.shape[1:], x.dtype) for x in parts if x is not None}) > 1:
            return None
        return torch.cat([x for x in parts if x is not None])

    def hold(self) -> Sequence[Part] | None:
        """See :meth:`Source.hold`: where both sources hold theirs, and no target has to be made up."""
        parts = self._labelled.hold() if self.target in ("class", "none") else None
        more = None if parts is None else self._more.hold()
        if parts is None or more is None:
            return None
        return [*parts, *(part._replace(targets=None) for part in more)]

    def read_stored(self, i: int) -> bytes | None:
        """See :meth:`Source.read_stored`."""
        source, own = self._find(i)
        return source.read_stored(own)

    def hash_contents(self, ids: Ids) -> bytes:
        """See :meth:`Source.hash_contents`."""
        own = ids < self._first
        return self._labelled.hash_contents(ids[own]) + self._more.hash_contents(ids[~own] - self._first)

    def target_place(self, i: int) -> str:
        """See :meth:`Source.target_place`."""
        return self._labelled.target_place(i) if i < self._first else ""

    def channels(self) -> int | None:
        """The labelled samples' number: a model that was trained on both is measured on these."""
        return self._labelled.channels()


def _shift(begin: Begin, rows: int) -> Begin:
    return lambda row: begin(row + rows)


def choose_pool(spec: DataSpec, source: Source, splits: Mapping[str, Ids]) -> Ids:
    """Choose the unlabelled samples' ids of a run, sorted.

    Args:
        spec: the recipe's ``[data]``, which has some.
        source: all of its samples.
        splits: those in use.

    Raises:
        StillhouseError: ``pool = "rest"``, and nothing is left.
    """
    if spec.unlabelled is not None:
        return source.splits[UNLABELLED]
    every = source.splits["train"]
    if spec.pool == "all":
        return every
    rest = np.setdiff1d(every, splits["train"])
    if not len(rest):
        raise StillhouseError(
            f"'rest' needs training samples that are left over, and all {len(every):,} are labelled",
            where="data.pool",
            hint="a smaller `per_class` or `limit`",
        )
    return rest


def count_unlabelled(ratio: float, labelled: int) -> int:
    """How many unlabelled samples come with so many ``labelled`` ones: at least one."""
    return max(1, round(ratio * labelled))


def mark(targets: Any, labelled: int | None, size: int) -> Any:
    """``targets`` of ``size`` samples, of which the first ``labelled`` have a label; None: all have, and nothing is marked."""
    if labelled is None:
        return targets
    return PartlyLabelled(targets, [k < labelled for k in range(size)], (labelled, size))


@attrs.frozen(kw_only=True, eq=False)
class PoolBatches:
    """Training batches' keys, each with unlabelled samples after its labelled ones.

    The unlabelled ones come round and round, each time in another order, and follow from the seed and the step alone: a
    stream that starts in the middle gives what an uninterrupted one gives. In a step with fewer labelled samples, an
    epoch's last, some that would have been its turn are left out. Their augmentation is that of the labelled samples' epoch.

    Attributes:
        keys: of the labelled samples, this process's share.
        start_step: the step they start at.
        ids: the unlabelled samples (N,), of all processes.
        ratio: how many of them come with each labelled sample.
        most: the labelled samples of this process's largest batch.
        seed: the run's seed.
        rank: this process's number.
        world: how many processes there are.
    """

    keys: Iterable[Key]
    start_step: int
    ids: Ids
    ratio: float
    most: int
    seed: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[Key]:
        turn = count_unlabelled(self.ratio, self.most) * self.world
        orders: dict[int, NDArray[Any]] = {}
        for step, key in enumerate(self.keys, self.start_step):
            positions = np.arange(step * turn, (step + 1) * turn)[self.rank :: self.world]
            rounds, places = np.divmod(positions[: count_unlabelled(self.ratio, len(key.ids))], len(self.ids))
            orders = {r: orders[r] if r in orders else self._shuffle(r) for r in np.unique(rounds).tolist()}
            drawn = [orders[r][place] for r, place in zip(rounds.tolist(), places.tolist(), strict=True)]
            yield Key(key.epoch, np.concatenate([key.ids, np.array(drawn, dtype=np.int64)]), len(key.ids))

    def _shuffle(self, number: int) -> Ids:
        return self.ids[shuffle_epoch(mix(self.seed, _POOL), number, len(self.ids))]


_POOL = 0x9001
"""Sets its random numbers apart from those of the labelled samples' order."""
