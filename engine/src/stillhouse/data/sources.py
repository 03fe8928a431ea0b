"""Where samples come from: a Source numbers them, knows their labels and splits, and reads them one by one."""

from __future__ import annotations

import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.images import to_tensor
from stillhouse.data.sampling import OwnRandomness, epoch_order, mix
from stillhouse.data.splitting import hold_out
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults

__all__ = ["ALIASES", "DatasetSource", "Digits", "Source", "as_label"]

Ids = NDArray[np.int64]

ALIASES = {"valid": "val", "validation": "val"}
"""Other names of splits, as folders and data sets have them."""


class Source(ABC):
    """Labelled samples, numbered 0 ... N-1 over all splits: a sample's id never depends on the split or the subset.

    Attributes:
        class_names: by label.
        labels: the label of every sample (N,).
        splits: the ids of each split, sorted; ``train`` is there.
        pure: reading a sample gives the same every time, so that it may be kept in memory.
        stamp: what changes when the content changes, for the fingerprint; None: look at samples.
    """

    class_names: tuple[str, ...]
    labels: Ids
    splits: dict[str, Ids]
    pure: bool = True
    stamp: bytes | None = None

    @abstractmethod
    def read(self, i: int) -> Tensor:
        """Sample ``i``'s input: uint8 or float32, (C, H, W) for images.

        Raises:
            StillhouseError: it cannot be read; its place is named.
        """

    @abstractmethod
    def place(self, i: int) -> str:
        """Where sample ``i`` is, for messages: a file, or ``split 'train', sample 12``."""

    def split_up(self, val_fraction: float, whole: bool) -> None:
        """Hold out a validation split where there is none, by class; of a ``whole``, a test split of the same size too.

        Raises:
            StillhouseError: a split is empty.
        """
        held = ([] if "val" in self.splits else ["val"]) + (["test"] if whole else [])
        if held and val_fraction > 0:
            parts = hold_out(self.splits["train"], self.labels, [val_fraction] * len(held))
            for name, ids in zip(["train", *held], parts, strict=True):
                self.splits[name] = ids
        raise_faults(
            Fault("data.val_fraction", f"too few samples to hold out the split {name!r}", "0 makes no such split")
            if name in held
            else Fault("data.name", f"the split {name!r} is empty")
            for name, ids in self.splits.items()
            if len(ids) == 0
        )
        order = [*dict.fromkeys([n for n in ("train", "val", "test") if n in self.splits] + list(self.splits))]
        self.splits = {name: self.splits[name] for name in order}


class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey; 0 ... 16 becomes 0 ... 255, rounded (no two values meet).

    Always split alike, by class: 1,079 train, 359 val, 359 test. A sample's id is its position in scikit-learn's array.
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        loaded = load_digits()
        self.images = torch.from_numpy(np.rint(loaded.images * (255 / 16)).astype(np.uint8))[:, None]
        self.labels = loaded.target.astype(np.int64)
        self.class_names = tuple(str(name) for name in loaded.target_names)
        ids = np.arange(len(self.labels), dtype=np.int64)
        self.splits = dict(zip(("train", "val", "test"), hold_out(ids, self.labels, [0.2, 0.2]), strict=True))

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return self.images[i]

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return f"sklearn:digits, sample {i}"


class DatasetSource(Source):
    """Map-style data sets of (input, target) by split, or one of them to be split here.

    Args:
        given: a mapping from split to data set, or one data set.
        origin: what gave it, for messages.
        val_fraction: see :meth:`Source.split_up`.
        pure: see :class:`Source`; None looks at the data sets' type.

    Raises:
        StillhouseError: not that, or an empty split, or labels that are no classes.
    """

    def __init__(self, given: Any, origin: str, val_fraction: float, pure: bool | None = None) -> None:
        self.origin = origin
        whole = not isinstance(given, Mapping)
        self.datasets = _by_split({"train": given} if whole else given, origin)
        sizes = [len(dataset) for dataset in self.datasets.values()]
        self.starts = np.cumsum([0, *sizes])
        ids = np.arange(self.starts[-1], dtype=np.int64)
        self.splits = dict(zip(self.datasets, np.split(ids, self.starts[1:-1]), strict=True))
        self.pure = all(_is_pure(d) for d in self.datasets.values()) if pure is None else pure
        empty = [name for name, ids in self.splits.items() if len(ids) == 0]
        raise_faults(Fault("data.name", f"the split {name!r} of {origin} is empty") for name in empty)
        self.labels = np.concatenate([self._labels_of(name) for name in self.datasets])
        self.class_names = self._class_names()
        self.split_up(val_fraction, whole)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`; the target must be what it was."""
        value, label = self._pair(i)
        if label != self.labels[i]:
            raise StillhouseError(
                f"the target is {label}, and the label of this sample was given as {self.labels[i]}",
                where=self.place(i),
                hint="give a sample the same target every time, and list it so in `targets`",
            )
        try:
            return to_tensor(value)
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        index = int(np.searchsorted(self.starts, i, side="right")) - 1
        return f"{self.origin}, split {list(self.datasets)[index]!r}, sample {i - self.starts[index]}"

    def _pair(self, i: int) -> tuple[Any, int]:
        index = int(np.searchsorted(self.starts, i, side="right")) - 1
        dataset = list(self.datasets.values())[index]
        try:
            item = dataset[int(i - self.starts[index])]
        except StillhouseError as error:
            raise error.within(self.place(i)) from None
        except Exception as error:
            raise StillhouseError(
                f"this sample cannot be read: {type(error).__name__}: {error}", where=self.place(i)
            ) from error
        if not (isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2):
            what = f"{len(item)} things" if isinstance(item, tuple | list) else type(item).__name__
            raise StillhouseError(f"this sample is {what}", where=self.place(i), hint="give (input, target)")
        return item[0], as_label(item[1], self.place(i))

    def _labels_of(self, split: str) -> Ids:
        """All labels of a split: the data set's own list where that tells the truth, else by reading every sample."""
        ids = self.splits[split]
        listed = _listed_labels(self.datasets[split])
        with OwnRandomness() as randomness:
            if listed is not None and len(listed) == len(ids):
                for i in ids[epoch_order(0, 0, len(ids))[:16]]:
                    randomness.seed(mix(int(i)))
                    if self._pair(int(i))[1] != listed[i - ids[0]]:
                        break
                else:
                    return listed
            labels = np.empty(len(ids), dtype=np.int64)
            for row, i in enumerate(ids):
                randomness.seed(mix(int(i)))
                labels[row] = self._pair(int(i))[1]
            return labels

    def _class_names(self) -> tuple[str, ...]:
        given = getattr(self.datasets["train"], "classes", None)
        if isinstance(given, Sequence) and not isinstance(given, str) and given:
            names = tuple(name if isinstance(name, str) else ", ".join(map(str, _listed(name))) for name in given)
        else:
            seen = np.unique(self.labels[self.splits["train"]])
            names = tuple(str(n) for n in range(int(seen.max(initial=0)) + 1))
            empty = len(names) - int((seen >= 0).sum())
            if empty > 0:
                warnings.warn(
                    f"{empty} of {len(names)} classes have no training sample: the classes go by the greatest label, "
                    f"{names[-1]}; a data set with `classes` says how many there are",
                    StillhouseWarning,
                    stacklevel=2,
                )
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(names)))
        hint = f"labels are 0 to {len(names) - 1}" + ("" if given else ", by the training split")
        raise_faults(Fault(self.place(int(i)), f"the label {self.labels[i]} is no class", hint) for i in wrong[:4])
        return names


def as_label(target: Any, place: str) -> int:
    """A target as a class index.

    Raises:
        StillhouseError: it is no whole number.
    """
    value = target
    if (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, np.ndarray) and value.size == 1):
        value = value.item()
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        shown = repr(target) if len(repr(target)) <= 40 else type(target).__name__
        raise StillhouseError(
            f"the target {shown} is no class index", where=place, hint="give a whole number from 0"
        ) from None


def _listed(name: Any) -> list[Any]:
    return list(name) if isinstance(name, Sequence) else [name]


def _by_split(given: Mapping[Any, Any], origin: str) -> dict[str, Any]:
    faults, found = [], {}
    for key, dataset in given.items():
        name = ALIASES.get(key, key)
        if not isinstance(key, str) or name in found:
            faults.append(Fault("data.name", f"{origin} gives the split {key!r}", "name each of train, val, test once"))
        elif not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or isinstance(dataset, str | Tensor):
            what = f"{origin} gives {type(dataset).__name__} for {name!r}"
            faults.append(Fault("data.name", what, "give map-style data sets of (input, target)"))
        else:
            found[name] = dataset
    if not faults and "train" not in found:
        faults.append(Fault("data.name", f"{origin} gives no split 'train'", did_you_mean("train", found)))
    raise_faults(faults)
    return {name: found[name] for name in sorted(found, key=lambda n: ({"train": 0, "val": 1, "test": 2}.get(n, 3), n))}


def _is_pure(dataset: Any) -> bool:
    """Whether reading has no randomness for sure: a data set of somebody else's may augment."""
    if isinstance(dataset, torch.utils.data.Subset):
        return _is_pure(dataset.dataset)
    return type(dataset) in (torch.utils.data.TensorDataset, list, tuple)


def _listed_labels(dataset: Any) -> Ids | None:
    if isinstance(dataset, torch.utils.data.Subset):
        inner = _listed_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, torch.utils.data.TensorDataset):
        listed: Any = dataset.tensors[-1]
    elif getattr(dataset, "target_transform", None) is not None:
        return None
    else:
        named = (getattr(dataset, name, None) for name in ("targets", "labels", "_labels"))
        listed = next((value for value in named if value is not None), None)
    try:
        array = np.asarray(listed)
    except Exception:  # noqa: BLE001 - an attribute of that name may be anything
        return None
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else None
