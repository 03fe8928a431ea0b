"""The samples of map-style data sets, numbered over all splits, each with its fields."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from stillhouse.data.fields import Fields, Item, describe_fields
from stillhouse.data.sources import ALIASES
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["Items", "check_splits"]


class Items:
    """Samples of data sets by split, one split after the other.

    Args:
        datasets: by split.
        origin: their name in messages.
        fields: which of a sample's fields is what; None: samples are (input, target).

    Attributes:
        sets: the data sets, in order.
        starts: the number of each one's first sample, and behind the last one that of all samples.
        fields: as given.
    """

    def __init__(self, datasets: Mapping[str, Any], origin: str, fields: Fields | None) -> None:
        self._names, self._origin, self.fields = list(datasets), origin, fields
        self.sets = list(datasets.values())
        self.starts = list(accumulate(map(len, self.sets), initial=0))

    def find_split(self, i: int) -> int:
        """Find the position of the split that sample ``i`` is of."""
        return bisect_right(self.starts, i) - 1

    def place(self, i: int) -> str:
        """Name sample ``i``'s place."""
        index = self.find_split(i)
        return f"{self._origin}, split {self._names[index]!r}, sample {i - self.starts[index]}"

    def read(self, i: int, alone: bool = False) -> Item:
        """Read sample ``i``.

        Args:
            i: its number.
            alone: it may be an input without a target.

        Raises:
            StillhouseError: it cannot be read, or does not have the fields; its place is named.
        """
        index = self.find_split(i)
        try:
            item = self.sets[index][i - self.starts[index]]
            return self.pick(item, alone)
        except StillhouseError as error:
            raise error.within(self.place(i)) from None
        except Exception as error:
            raise StillhouseError(
                f"this sample cannot be read: {type(error).__name__}: {error}", where=self.place(i)
            ) from error

    def pick(self, item: Any, alone: bool = False) -> Item:
        """Pick the fields of what a data set gives.

        Raises:
            StillhouseError: it does not have them.
        """
        if self.fields is not None:
            return self.fields.pick(item)
        if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
            return Item(item[0], item[1])
        if alone and not isinstance(item, Sequence | Mapping):
            return Item(item)
        named = isinstance(item, Mapping)
        if named or isinstance(item, tuple | list):
            hint = '{ input = "image", target = "label" }' if named else '["input", "target", ""]'
            got = f"a dict of {describe_fields(item)}" if named else f"{len(item)} values"
            raise StillhouseError(
                f"a sample must be (input, target), got {got}", hint=f"args = {{ fields = {hint} }} names its fields"
            )
        raise StillhouseError(f"a sample must be (input, target), got {type(item).__name__}")


def check_splits(given: Mapping[Any, Any], origin: str) -> dict[str, Any]:
    """Check that ``given`` are data sets by split, and return them with ``train`` first.

    Raises:
        StillhouseError: an unknown split, or no map-style data set.
    """
    faults, found = [], {}
    for key, dataset in given.items():
        name = ALIASES.get(key, key)
        if not isinstance(key, str) or name in found:
            faults.append(
                Fault("data.name", f"unknown or repeated split {key!r} from {origin}", "each of train, val, test once")
            )
        elif not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or isinstance(dataset, str | Tensor):
            what = f"the split {name!r} of {origin} must be a map-style data set of (input, target), got {type(dataset).__name__}"
            faults.append(Fault("data.name", what))
        else:
            found[name] = dataset
    if not faults and "train" not in found:
        faults.append(Fault("data.name", f"{origin} has no split 'train'", did_you_mean("train", found)))
    raise_faults(faults)
    return {name: found[name] for name in sorted(found, key=lambda n: ({"train": 0, "val": 1, "test": 2}.get(n, 3), n))}
