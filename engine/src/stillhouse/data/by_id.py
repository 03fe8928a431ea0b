"""Streams of samples by their ids, whatever the split: a teacher's single pass, an unlabelled pool, fixed views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.memory import keep_in_memory
from stillhouse.data.sampler import Ids, Key, OrderedBatches
from stillhouse.data.samples import Samples
from stillhouse.data.transform_chain import DRAWS
from stillhouse.data.unlabelled import UNLABELLED
from stillhouse.errors import StillhouseError
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["Passes", "RepeatedViews"]

_NO_PART_OF_AN_INPUT = frozenset(
    [
        "name",
        "args",
        "batch_size",
        "eval_batch_size",
        "drop_last",
        "sampling",
        "buffer",
        "workers",
        "prefetch",
        "per_class",
        "limit",
        "subset_seed",
        "unlabelled",
        "unlabelled_args",
        "pool",
        "unlabelled_ratio",
        "terms",
        "val_fraction",
        "split",
        "transforms",
        "batch_transforms",
        "cache",
        "skip_bad",
    ]
)
"""Keys of ``[data]`` that don't change what a model is given in evaluation. A key not named here counts as one that does."""


@attrs.frozen(eq=False)
class RepeatedViews:
    """Keys with the augmentation of epoch e mod ``views`` in epoch e, and the order of epoch e.

    Attributes:
        keys: the keys of training batches.
        views: how many different looks a sample has.
    """

    keys: Iterable[Key]
    views: int

    def __iter__(self) -> Iterator[Key]:
        return (key._replace(epoch=key.epoch % self.views) for key in self.keys)


class Passes:
    """A run's samples by id: :attr:`stillhouse.data.Data.passes`.

    Args:
        spec: the recipe's ``[data]``.
        info: what is known of the data.
        samples: what makes batches.
        splits: the ids in use, by split.
        stream: the batches of keys.
    """

    def __init__(
        self,
        spec: DataSpec,
        info: DataInfo,
        samples: Samples,
        splits: Mapping[str, Ids],
        *,
        stream: Callable[[Samples, Iterable[Key]], Iterator[Batch]],
    ) -> None:
        self._spec, self._info, self._samples, self._splits = spec, info, samples, splits
        self._stream = stream
        self._held: dict[bytes, Samples] = {}

    def ids(self, which: str) -> Ids:
        """Return the ids (N,), sorted, of a split in use, ``unlabelled`` where there are such samples.

        ``pool`` is all that training may draw: the whole training split, whatever ``per_class``, and the unlabelled ones.
        """
        if which == "pool":
            every: Ids = np.union1d(self._samples.source.splits["train"], self._splits.get(UNLABELLED, []))
            return every.astype(np.int64)
        return self._splits[which]

    def once(self, ids: Ids, view: int | None = None) -> Iterable[Batch]:
        """Stream every sample of ``ids`` once, in order, as in evaluation; with ``view``, augmented as in that epoch.

        Raises:
            StillhouseError: on the way, when a sample cannot be read.
        """
        spec, samples = self._spec, self._select_samples(ids)
        samples = samples.plain if view is None else samples
        keys = OrderedBatches(ids=ids, batch_size=spec.eval_batch_size or spec.batch_size)
        return self._stream(samples, [Key(view or 0, key.ids) for key in keys])

    def labels(self, ids: Ids) -> Ids:
        """Return the classes (N,) of ``ids``.

        Raises:
            StillhouseError: the targets are no classes.
        """
        if self._info.target != "class":
            raise StillhouseError(
                f"the data's targets are of kind {self._info.target!r}, and classes are needed", where="data.name"
            )
        return self._samples.source.labels[ids]

    def content(self, ids: Ids) -> str:
        """Hash the ids in order and each sample as it is stored."""
        digest = hashlib.sha256(ids.tobytes())
        samples = self._select_samples(ids)
        with OwnRandomness() as randomness:
            for i in ids:
                stored = samples.source.read_stored(int(i))
                if stored is None:
                    randomness.seed(mix(int(i)))
                    x = samples.read_input(int(i)).contiguous().numpy()
                    stored = f"{x.dtype} {x.shape}".encode() + x.tobytes()
                digest.update(hashlib.sha256(stored).digest())
        return digest.hexdigest()

    def transform(self) -> dict[str, Any]:
        """Describe the processing of a sample between reading and the model in evaluation, as plain data."""
        spec, info = self._spec, self._info
        made = {k: v for k, v in attrs.asdict(spec).items() if k not in _NO_PART_OF_AN_INPUT}
        made |= {"input_shape": info.input_shape, "mean": info.mean, "std": info.std}
        if self._samples.maker is not None:  # the task makes inputs of its own
            made["task"] = self._samples.maker
        plain: dict[str, Any] = json.loads(json.dumps(made, default=repr))
        return plain

    def augmentation(self) -> dict[str, Any]:
        """Describe the augmentation that training adds, with its seed, as plain data."""
        made = {"transforms": self._spec.transforms, "seed": self._samples.seed}
        if self._samples.maker is None:
            made["draws"] = DRAWS
        plain: dict[str, Any] = json.loads(json.dumps(made, default=repr))
        return plain

    def _select_samples(self, ids: Ids) -> Samples:
        """Return samples with all of ``ids`` in memory, or none: a run on few labels keeps only its own."""
        samples = self._samples
        if samples.memory is None or samples.memory.holds_all(ids):
            return samples
        key = hashlib.sha256(np.ascontiguousarray(ids).tobytes()).digest()
        if key not in self._held:
            bare = attrs.evolve(samples, memory=None)
            self._held[key] = keep_in_memory(bare, {"pool": ids}, self._spec.cache, self._spec.workers)
        return self._held[key]
