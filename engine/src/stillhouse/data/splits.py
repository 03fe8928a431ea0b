"""Splits into training, validation and test samples: stratified, and the same in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.config.data import BlockSplit
from stillhouse.data.sampler import shuffle_epoch
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.seeds import mix

__all__ = ["choose", "choose_per_class", "hold_out", "split_by_blocks"]

Ids = NDArray[np.int64]

_SPLIT_SEED = 0x5711
"""Splits don't follow the run's seed: paired runs with different seeds must be measured on the same samples."""


def hold_out(ids: Ids, labels: Ids, fractions: Sequence[float], seed: int = _SPLIT_SEED) -> list[Ids]:
    """Split ``ids`` by class: the rest first, then a part for each of ``fractions``; each part is sorted.

    A part gets ``fraction`` of each class, rounded, and at least one sample of a class that has enough for all parts.

    Args:
        ids: samples (N,).
        labels: the label of every sample of the source, indexed by id.
        fractions: each from 0 to 1, together below 1.
        seed: another seed gives another split.
    """
    parts: list[list[Ids]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels[ids]):
        of_class = ids[labels[ids] == label]
        of_class = of_class[shuffle_epoch(mix(seed, int(label)), 0, len(of_class))]
        start = 0
        for part, fraction in zip(parts[1:], fractions, strict=True):
            count = round(len(of_class) * fraction)
            if count == 0 and fraction > 0 and len(of_class) > len(fractions):
                count = 1
            part.append(of_class[start : start + count])
            start += count
        parts[0].append(of_class[start:])
    return [np.sort(np.concatenate(part)) if part else ids[:0] for part in parts]


def choose(ids: Ids, n: int, seed: int) -> Ids:
    """Choose ``n`` of ``ids``, sorted. With one seed, fewer are a subset of more.

    Raises:
        StillhouseError: there are fewer.
    """
    if len(ids) < n:
        raise StillhouseError(
            f"must be at most the number of training samples, {len(ids)}, got {n}", where="data.limit"
        )
    return np.sort(ids[shuffle_epoch(seed, 1, len(ids))[:n]])


def choose_per_class(ids: Ids, labels: Ids, class_names: Sequence[str], n: int, seed: int) -> Ids:
    """Choose ``n`` samples of each class out of ``ids``, sorted. With one seed, fewer are a subset of more.

    Raises:
        StillhouseError: a class has fewer than ``n``; each such class is named with its count.
    """
    chosen, faults = [], []
    for label, name in enumerate(class_names):
        of_class = ids[labels[ids] == label]
        if len(of_class) < n:
            what = f"must be at most the number of samples of class {name!r}, {len(of_class)}, got {n}"
            faults.append(Fault("data.per_class", what))
        chosen.append(of_class[shuffle_epoch(mix(seed, label), 1, len(of_class))[:n]])
    if len(faults) > 8:
        more = Fault("data.per_class", f"... {len(faults) - 8} more classes have fewer samples")
        raise StillhouseError(faults=[*faults[:8], more])
    raise_faults(faults)
    return np.sort(np.concatenate(chosen))


def split_by_blocks(splits: Mapping[str, Ids], split: BlockSplit, val_fraction: float) -> dict[str, Ids]:
    """Cut the training samples of ``splits`` into blocks; the blocks' ``val`` replaces the data's own.

    Raises:
        StillhouseError: more blocks than samples, a gap that leaves nothing of a block, or a second test split.
    """
    held = ["val"] if "test" in splits else ["val", "test"]
    plan = split.plan(val_fraction, held)
    train = splits["train"]
    if "test" in plan and "test" in splits:
        raise StillhouseError(
            "must be of train and val: the data has a test split of its own", where="data.split.blocks"
        )
    if plan.count("train") == 0:
        raise StillhouseError(
            f"no block is left for training, of {len(plan)}", where="data.split.blocks", hint="more blocks"
        )
    parts: dict[str, list[Ids]] = {"train": [], "val": []}
    for k, (name, block) in enumerate(zip(plan, np.array_split(train, len(plan)), strict=True)):
        before, after = (plan[k - 1] if k else name), (plan[k + 1] if k + 1 < len(plan) else name)
        # The training block makes room; between two that are held out, the second does.
        first = split.gap if before != name and (name == "train" or before != "train") else 0
        last = split.gap if after != name and name == "train" else 0
        kept = block[first : len(block) - last]
        if len(kept) == 0:
            raise StillhouseError(
                f"gap must leave samples in every block: block {k} has {len(block)}, got gap = {split.gap}",
                where="data.split",
                hint="fewer blocks, or a smaller gap",
            )
        parts.setdefault(name, []).append(kept)
    made = {name: np.concatenate(ids) for name, ids in parts.items()}
    rest = {name: ids for name, ids in splits.items() if name not in made}
    return {
        name: {**made, **rest}[name]
        for name in dict.fromkeys(["train", "val", "test", *rest])
        if name in made or name in rest
    }
