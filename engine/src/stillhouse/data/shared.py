"""Data shared by runs of one process, inside :func:`stillhouse.memo.share_memo`: nothing is decoded twice."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.data import DataSpec
from stillhouse.contract.task import SampleMaker
from stillhouse.data.given import Given
from stillhouse.data.held import Memory
from stillhouse.data.samples import Samples
from stillhouse.memo import remember

__all__ = ["KEPT", "keep_memory", "make_data_key", "make_source_key", "recall_memory"]

KEPT = 4
"""Data sets that are remembered: an ablation goes seed by seed, with a student's and a teacher's data each."""

_OF_BATCHES = (
    *("batch_size", "eval_batch_size", "drop_last", "sampling", "buffer", "workers", "prefetch", "batch_transforms"),
    *("unlabelled_ratio", "terms"),
)
_OF_SUBSETS = ("per_class", "limit", "subset_seed", "pool")


def make_source_key(spec: DataSpec, base: Path | None, given: Given | None = None) -> Hashable:
    """Make the key of the source that ``spec`` opens, or that was ``given``, with its splits and transforms."""
    return "source", _serialise(spec, *_OF_BATCHES, *_OF_SUBSETS), str(base), _Same(given)


def make_data_key(
    spec: DataSpec, task: SampleMaker | None, seed: int, base: Path | None, given: Given | None = None
) -> Hashable:
    """Make the key of the samples of ``spec``, with the seed where the subset, or the reading, depends on it."""
    drawn = spec.per_class is not None or spec.limit is not None
    seeded = seed if spec.cache == "memory" or (drawn and spec.subset_seed is None) else None
    made_by = f"{type(task).__module__}.{type(task).__qualname__} {task!r}"
    return "data", _serialise(spec, *_OF_BATCHES), made_by, seeded, str(base), _Same(given)


def _serialise(spec: DataSpec, *without: str) -> str:
    tables: dict[str, Any] = {k: v for k, v in attrs.asdict(spec).items() if k not in without}
    return json.dumps(tables, sort_keys=True, default=repr)


def recall_memory(samples: Samples) -> Samples:
    """Return ``samples`` with the memory that another run of the same source has kept."""
    held = _get_store(samples).get("memory")
    return samples if held is None or samples.memory is not None else attrs.evolve(samples, memory=held)


def keep_memory(samples: Samples) -> None:
    """Keep the samples' memory for the next run of the same source."""
    if samples.memory is not None:
        _get_store(samples)["memory"] = samples.memory


def _get_store(samples: Samples) -> dict[str, Memory]:
    # By identity: within `keeping` a source stays the same object. What reads at random is read anew by every run.
    def key() -> Hashable:
        return ("memory", _Same(samples.source), repr(samples.shaping)) if samples.source.pure else None

    return remember(key, dict, among=KEPT)


@attrs.frozen(eq=False)
class _Same:
    """A key that is equal for the same object only; it keeps the object alive, so that no other gets its id."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
