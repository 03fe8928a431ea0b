"""Data sets of others: map-style, of (input, target), from a callable or torchvision."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.config.structure import structure
from stillhouse.data.images import to_tensor
from stillhouse.data.memory import Errors, refuse
from stillhouse.data.sampler import Ids, epoch_order
from stillhouse.data.sources import ALIASES, Source
from stillhouse.data.targets import TargetSpec, guess_kind
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["DatasetSource", "as_label"]

_TRIED = 64


class DatasetSource(Source):
    """Map-style data sets of (input, target) by split, or one of them to be split here.

    Args:
        given: a mapping from split to data set, or one data set.
        origin: what gave it, for messages.
        val_fraction: see :meth:`Source.split_up`.
        pure: see :class:`Source`; None looks at the data sets' type.
        described: what is said of the targets: keys of :class:`stillhouse.data.targets.TargetSpec`. Without a kind the
            first training sample tells.
        skip_bad: go on where a sample cannot be read or its label is no class; reading it says so again.

    Raises:
        StillhouseError: not that, or an empty split, or labels that are no classes.
    """

    def __init__(
        self,
        given: Any,
        origin: str,
        val_fraction: float,
        pure: bool | None = None,
        described: Mapping[str, Any] | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.origin, self._skip_bad = origin, skip_bad
        whole = not isinstance(given, Mapping)
        self.datasets = _by_split({"train": given} if whole else given, origin)
        sizes = [len(dataset) for dataset in self.datasets.values()]
        self.starts = np.cumsum([0, *sizes])
        ids = np.arange(self.starts[-1], dtype=np.int64)
        self.splits = dict(zip(self.datasets, np.split(ids, self.starts[1:-1]), strict=True))
        self.pure = all(_is_pure(d) for d in self.datasets.values()) if pure is None else pure
        empty = [name for name, ids in self.splits.items() if len(ids) == 0]
        raise_faults(Fault("data.name", f"the split {name!r} of {origin} is empty") for name in empty)
        self._told: tuple[str, ...] = ()
        self.spec = self._describe(dict(described or {}))
        self.target = self.spec.target if self.spec is not None else "class"
        if self.spec is None:
            unread: Errors = {}
            self.labels = np.concatenate([self._labels_of(name, unread) for name in self.datasets])
            refuse(unread, len(ids), skip_bad)
            self.class_names = self._class_names()
        else:
            self.labels = np.zeros(len(ids), dtype=np.int64)
            self.class_names = self.spec.class_names
        self.split_up(val_fraction, whole)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return self.pair(i)[0]

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`; a class must be what it was."""
        if self.spec is not None:
            value, target = self._item(i)
            try:
                return to_tensor(value), self.spec.read(target)
            except StillhouseError as error:
                raise error.within(self.place(i)) from None
        value, label = self._pair(i)
        if label == self.labels[i] and not 0 <= label < len(self.class_names):
            raise StillhouseError(faults=[self._no_class(i)])
        if label != self.labels[i]:
            raise StillhouseError(
                f"the target is {label}, and the label of this sample was given as {self.labels[i]}",
                where=self.place(i),
                hint="give a sample the same target every time, and list it so in `targets`",
            )
        try:
            return to_tensor(value), label
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        index = int(np.searchsorted(self.starts, i, side="right")) - 1
        return f"{self.origin}, split {list(self.datasets)[index]!r}, sample {i - self.starts[index]}"

    def _describe(self, described: dict[str, Any]) -> TargetSpec | None:
        """How targets are read; None for class indices."""
        if "target" not in described and _listed_labels(self.datasets["train"]) is not None:
            described["target"] = "class"
        if "target" not in described:
            with OwnRandomness() as randomness:
                randomness.seed(mix(int(self.splits["train"][0])))
                described["target"] = guess_kind(self._first_item()[1])
        names = getattr(self.datasets["train"], "classes", None)
        if described["target"] in ("mask", "boxes") and isinstance(names, Sequence) and not isinstance(names, str):
            described.setdefault("classes", [_name(name) for name in names])
        spec: TargetSpec = structure(described, TargetSpec, "data.args")
        self._told = spec.class_names
        return None if spec.target == "class" else spec

    def _first_item(self) -> tuple[Any, Any]:
        """The first training sample that can be read."""
        for i in map(int, self.splits["train"][:_TRIED]):
            with suppress(StillhouseError):
                return self._item(i)
        return self._item(int(self.splits["train"][0]))  # its error is the one to show

    def _pair(self, i: int) -> tuple[Any, int]:
        value, target = self._item(i)
        return value, as_label(target, self.place(i))

    def _item(self, i: int) -> tuple[Any, Any]:
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
            if self.target == "none" and not isinstance(item, Sequence):
                return item, None
            what = f"{len(item)} things" if isinstance(item, tuple | list) else type(item).__name__
            raise StillhouseError(f"this sample is {what}", where=self.place(i), hint="give (input, target)")
        return item[0], item[1]

    def _labels_of(self, split: str, unread: Errors) -> Ids:
        """All labels of a split: the data set's own list where that tells the truth, else by reading every sample.

        Where one cannot be read its label is -1, and its error is added to ``unread``.
        """
        ids = self.splits[split]
        listed = _listed_labels(self.datasets[split])
        with OwnRandomness() as randomness:
            if listed is not None and len(listed) == len(ids):
                for i in map(int, ids[epoch_order(0, 0, len(ids))[:16]]):
                    randomness.seed(mix(i))
                    try:
                        if self._pair(i)[1] != listed[i - ids[0]]:
                            break
                    except StillhouseError:
                        if not self._skip_bad:
                            break  # all are read, so that all that are bad can be counted
                else:
                    return listed
            labels = np.empty(len(ids), dtype=np.int64)
            for row, i in enumerate(map(int, ids)):
                randomness.seed(mix(i))
                try:
                    labels[row] = self._pair(i)[1]
                except StillhouseError as error:
                    labels[row], unread[i] = -1, error
            return labels

    def _class_names(self) -> tuple[str, ...]:
        names = self._told or self._own_names() or self._counted()
        self.class_names = names
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(names)))
        if not self._skip_bad:
            refuse({int(i): StillhouseError(faults=[self._no_class(int(i))]) for i in wrong}, len(self.labels), False)
        return names

    def _own_names(self) -> tuple[str, ...]:
        """What the data set says of its classes."""
        given = getattr(self.datasets["train"], "classes", None)
        return tuple(map(_name, given)) if isinstance(given, Sequence) and not isinstance(given, str) else ()

    def _counted(self) -> tuple[str, ...]:
        """A number for each class, by the greatest label of the training split.

        Raises:
            StillhouseError: most of these classes would have no sample, so that this label is none.
        """
        train = self.splits["train"]
        greatest = int(train[self.labels[train].argmax()])
        count = max(0, int(self.labels[greatest])) + 1
        somewhere, seen = (
            np.unique(labels[(labels >= 0) & (labels < count)]) for labels in (self.labels, self.labels[train])
        )
        if count > 1 and count - len(somewhere) > count / 2:
            raise StillhouseError(
                f"by the label {count - 1} there would be {count:,} classes, and {count - len(somewhere):,} of them have "
                "no sample",
                where=self.place(greatest),
                hint="labels count from 0; or say which classes there are: classes = [...], or their number, in the args "
                "of [data]",
            )
        if len(seen) < count:
            warnings.warn(
                f"{count - len(seen)} of {count} classes have no training sample: the classes go by the greatest label, "
                f"{count - 1}; a data set with `classes`, or `classes` in the args of [data], says how many there are",
                StillhouseWarning,
                stacklevel=2,
            )
        return tuple(map(str, range(count)))

    def _no_class(self, i: int) -> Fault:
        hint = f"labels are 0 to {len(self.class_names) - 1}"
        hint += "" if self._told or self._own_names() else ", by the training split"
        return Fault(self.place(i), f"the label {self.labels[i]} is no class", hint)


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


def _name(given: Any) -> str:
    """A class's name; some data sets give several for one."""
    return ", ".join(map(str, given)) if isinstance(given, Sequence) and not isinstance(given, str) else str(given)


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
