"""Map-style data sets of (input, target), from a callable or torchvision."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.config.structure import structure
from stillhouse.data.draws import Begin
from stillhouse.data.fields import FIELDS_KEY, Fields, Item, check_mask, read_target
from stillhouse.data.hub_rows import guess_fields
from stillhouse.data.images import WHITE, is_unclear, to_tensor
from stillhouse.data.items import Items, check_splits
from stillhouse.data.labels import find_class_names, find_listed_labels, parse_label, stack_labels
from stillhouse.data.memory import Errors, refuse_bad_samples
from stillhouse.data.sampler import Ids, shuffle_epoch
from stillhouse.data.sources import Part, Source
from stillhouse.data.targets import TargetSpec, guess_kind
from stillhouse.data.tensors import convert_stacked
from stillhouse.data.torch_datasets import find_tensors, is_pure, read_items
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["DatasetSource"]

_TRIED = 64


class DatasetSource(Source):
    """Map-style data sets of (input, target) by split, or one of them to be split here.

    Args:
        given: a mapping from split to data set, or a single data set.
        origin: its name in messages.
        val_fraction: see :meth:`Source.split_up`.
        pure: see :class:`Source`; None: judged by the data sets' types.
        described: keys of :class:`stillhouse.data.targets.TargetSpec`, and ``fields``, what
            :meth:`stillhouse.data.fields.Fields.read` takes. Without a kind it is guessed from the first training sample.
        skip_bad: go on where a sample is unreadable or its label is not a class; reading it raises again.
        background: the level of grey, 0 to 255, that transparent pixels of PIL images are laid on.

    Attributes:
        unclear: how many images, of those read so far, may or may not have been turned by their EXIF orientation.

    Raises:
        StillhouseError: not map-style data sets, an empty split, or labels that are not classes.
    """

    def __init__(
        self,
        given: Any,
        origin: str,
        val_fraction: float,
        pure: bool | None = None,
        described: Mapping[str, Any] | None = None,
        skip_bad: bool = False,
        background: int = WHITE,
    ) -> None:
        self.origin, self._skip_bad, self._background = origin, skip_bad, background
        self.unclear = 0
        whole = not isinstance(given, Mapping)
        self.datasets = check_splits({"train": given} if whole else given, origin)
        told = dict(described or {})
        named = FIELDS_KEY in told
        fields = Fields.read(told.pop(FIELDS_KEY)) if named else guess_fields(self.datasets["train"])
        self._items = Items(self.datasets, origin, fields)
        self._sets, self._starts = self._items.sets, self._items.starts
        ids = np.arange(self._starts[-1], dtype=np.int64)
        self.splits = dict(zip(self.datasets, np.split(ids, self._starts[1:-1]), strict=True))
        self.pure = all(is_pure(d) for d in self.datasets.values()) if pure is None else pure
        empty = [name for name, ids in self.splits.items() if len(ids) == 0]
        raise_faults(Fault("data.name", f"the split {name!r} of {origin} is empty") for name in empty)
        if fields is not None and "weight" in fields.keys:
            self.weights = np.ones(len(ids), dtype=np.float32)
        self._given_names: tuple[str, ...] = ()
        self._own_names = find_class_names(self.datasets["train"], fields)
        self.spec = self._describe(told)
        check_mask(fields, self.spec)
        self.target = self.spec.target if self.spec is not None else "class"
        if self.spec is None:
            unread: Errors = {}
            self.labels = np.concatenate([self._read_labels(name, unread) for name in self.datasets])
            refuse_bad_samples(unread, len(ids), skip_bad)
            self.class_names = self._name_classes()
        else:
            self.labels = np.zeros(len(ids), dtype=np.int64)
            self.class_names = self.spec.class_names
            self._read_weights(ids)
        self.split_up(val_fraction, whole)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return self.pair(i)[0]

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`; a label must not change between readings."""
        if self.spec is not None:
            item = self._read_item(i)
            try:
                return self._convert(item.input), read_target(item.target, item.mask, self.spec)
            except StillhouseError as error:
                raise error.within(self.place(i)) from None
        item, label = self._read_labelled(i)
        if label == self.labels[i] and not 0 <= label < len(self.class_names):
            raise StillhouseError(faults=[self._make_label_fault(i)])
        if label != self.labels[i]:
            raise StillhouseError(
                f"the target must equal the listed label {self.labels[i]}, got {label}",
                where=self.place(i),
                hint="give a sample the same target every time, and list it so in `targets`",
            )
        try:
            return self._convert(item.input), label
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def gather(self, ids: Ids, begin: Begin | None) -> Tensor | None:
        """See :meth:`Source.gather`. A data set's own ``__getitems__`` is asked, where it has one and nothing is drawn."""
        index = self._items.find_split(int(ids[0]))
        rows = ids - self._starts[index]
        dataset = self._sets[index]
        if self.spec is not None or rows.min() < 0 or rows.max() >= self._starts[index + 1] - self._starts[index]:
            return None
        try:
            items = read_items(dataset, rows.tolist(), begin)
            if self._items.fields is not None:
                items = [self._items.pick(item)[:2] for item in items]
            inputs, targets = zip(*items, strict=True)
            if not all(type(x) is Tensor for x in inputs):
                inputs = tuple(map(self._convert, inputs))
            x = torch.stack(inputs) if len({x.dtype for x in inputs}) == 1 else None
        except Exception:  # noqa: BLE001 - whatever it is, it is raised again where samples are read one by one
            return None
        found = stack_labels(targets)
        if x is None or found is None or not np.array_equal(found, self.labels[ids]):
            return None
        return convert_stacked(x)

    def hold(self) -> Sequence[Part] | None:
        """See :meth:`Source.hold`: the tensors of TensorDatasets, or of parts of them, on the CPU."""
        if self._items.fields is not None:
            return None
        parts = [find_tensors(dataset, self.target) for dataset in self._sets]
        found = [part for part in parts if part is not None]
        return found if len(found) == len(parts) else None

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return self._items.place(i)

    def _convert(self, value: Any) -> Tensor:
        self.unclear += is_unclear(value)
        return to_tensor(value, self._background)

    def _describe(self, described: dict[str, Any]) -> TargetSpec | None:
        """Decide how targets are read; None for class indices."""
        if "target" not in described and find_listed_labels(self.datasets["train"], self._items.fields) is not None:
            described["target"] = "class"
        if "target" not in described:
            with OwnRandomness() as randomness:
                randomness.seed(mix(int(self.splits["train"][0])))
                described["target"] = guess_kind(self._read_first_item().target)
        if described["target"] in ("mask", "boxes") and self._own_names:
            described.setdefault("classes", list(self._own_names))
        spec: TargetSpec = structure(described, TargetSpec, "data.args")
        self._given_names = spec.class_names
        return None if spec.target == "class" else spec

    def _read_first_item(self) -> Item:
        """Read the first readable training sample."""
        for i in map(int, self.splits["train"][:_TRIED]):
            with suppress(StillhouseError):
                return self._read_item(i)
        return self._read_item(int(self.splits["train"][0]))  # its error is the one to show

    def _read_labelled(self, i: int) -> tuple[Item, int]:
        item = self._read_item(i)
        try:
            return item, parse_label(item.target)
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def _read_item(self, i: int) -> Item:
        item = self._items.read(i, alone=self.target == "none")
        if self.weights is not None:
            self.weights[i] = item.weight
        return item

    def _read_weights(self, ids: Iterable[int]) -> None:
        """Read the weights of all samples, where they have any: a sample that cannot be read is named when it is met."""
        if self.weights is None:
            return
        with OwnRandomness() as randomness:
            for i in map(int, ids):
                randomness.seed(mix(i))
                with suppress(StillhouseError):
                    self._read_item(i)

    def _read_labels(self, split: str, unread: Errors) -> Ids:
        """Return all labels of a split: the data set's own list where samples agree with it, else read from every sample.

        Where a sample cannot be read its label is -1, and its error is added to ``unread``.
        """
        ids = self.splits[split]
        listed = None if self.weights is not None else find_listed_labels(self.datasets[split], self._items.fields)
        with OwnRandomness() as randomness:
            if listed is not None and len(listed) == len(ids):
                for i in map(int, ids[shuffle_epoch(0, 0, len(ids))[:16]]):
                    randomness.seed(mix(i))
                    try:
                        if self._read_labelled(i)[1] != listed[i - ids[0]]:
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
                    labels[row] = self._read_labelled(i)[1]
                except StillhouseError as error:
                    labels[row], unread[i] = -1, error
            return labels

    def _name_classes(self) -> tuple[str, ...]:
        names = self._given_names or self._own_names or self._number_classes()
        self.class_names = names
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(names)))
        if not self._skip_bad:
            refuse_bad_samples(
                {int(i): StillhouseError(faults=[self._make_label_fault(int(i))]) for i in wrong},
                len(self.labels),
                False,
            )
        return names

    def _number_classes(self) -> tuple[str, ...]:
        """Name the classes by number, up to the greatest label of the training split.

        Raises:
            StillhouseError: most of these classes would have no sample, so the greatest label cannot be a class.
        """
        train = self.splits["train"]
        greatest = int(train[self.labels[train].argmax()])
        count = max(0, int(self.labels[greatest])) + 1
        somewhere, seen = (
            np.unique(labels[(labels >= 0) & (labels < count)]) for labels in (self.labels, self.labels[train])
        )
        if count > 1 and count - len(somewhere) > count / 2:
            raise StillhouseError(
                f"the label {count - 1} would mean {count:,} classes, {count - len(somewhere):,} of which have "
                "no sample",
                where=self.place(greatest),
                hint="labels count from 0; or set the classes: classes = [...], or their number, in the args of [data]",
            )
        if len(seen) < count:
            warnings.warn(
                f"{count - len(seen)} of {count} classes have no training sample: the count follows from the greatest label, "
                f"{count - 1}; a data set's `classes`, or `classes` in the args of [data], sets it",
                StillhouseWarning,
                stacklevel=2,
            )
        return tuple(map(str, range(count)))

    def _make_label_fault(self, i: int) -> Fault:
        hint = f"labels are 0 to {len(self.class_names) - 1}"
        hint += "" if self._given_names or self._own_names else ", by the training split"
        return Fault(self.place(i), f"the label {self.labels[i]} is not a class", hint)
