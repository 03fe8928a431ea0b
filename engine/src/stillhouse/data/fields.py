"""The fields of a sample: which part of a tuple or a dict is its input, its target, a mask of it, its weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["FIELDS_KEY", "ROLES", "Fields", "Item", "check_mask", "describe_fields", "read_target"]

ROLES = ("input", "target", "mask", "weight")
"""What a field may be."""

FIELDS_KEY = "fields"
"""The key of ``[data] args`` that names them."""

_WHERE = f"data.args.{FIELDS_KEY}"
_SHOWN = 8


class Item(NamedTuple):
    """A sample as its data set gives it.

    Attributes:
        input: an image, an array, a tensor.
        target: what it shows; None: nothing is said.
        mask: true where a mask's or a depth's pixel counts; None: everywhere.
        weight: the sample's factor in the task's loss.
    """

    input: Any
    target: Any = None
    mask: Any = None
    weight: float = 1.0


@attrs.frozen
class Fields:
    """The keys, or the positions, of a sample's fields.

    Attributes:
        keys: by role, one of :data:`ROLES`; fields that have none are left alone.
    """

    keys: Mapping[str, str | int]

    @classmethod
    def read(cls, given: Any) -> Fields:
        """Read what a recipe says: ``{ input = "image", target = "label" }``, or ``["input", "", "target"]`` by position.

        Raises:
            StillhouseError: an unknown role, one that is named twice, or no input.
        """
        if isinstance(given, Mapping):
            pairs = [(role, key) for role, key in given.items()]
        elif isinstance(given, Sequence) and not isinstance(given, str):
            pairs = [(role, place) for place, role in enumerate(given) if role != ""]
        else:
            what = f"must be a table or a list, got {given!r}"
            raise StillhouseError(what, where=_WHERE, hint='fields = { input = "image", target = "label" }')
        faults = [
            Fault(_WHERE, f"unknown role {role!r}", did_you_mean(str(role), ROLES))
            for role, _ in pairs
            if role not in ROLES
        ]
        faults += [
            Fault(f"{_WHERE}.{role}", f"must be a key or a position from 0, got {key!r}")
            for role, key in pairs
            if not isinstance(key, str | int) or isinstance(key, bool) or (isinstance(key, int) and key < 0)
        ]
        roles = [role for role, _ in pairs]
        faults += [Fault(_WHERE, f"names the {role} twice") for role in ROLES if roles.count(role) > 1]
        if "input" not in roles:
            faults.append(Fault(_WHERE, "names no input", f"roles are {', '.join(ROLES)}"))
        raise_faults(faults)
        return cls(dict(pairs))

    def pick(self, item: Any) -> Item:
        """Pick the fields of one sample, or of a batch.

        Raises:
            StillhouseError: it has no such field; those that it has are named.
        """
        found = {role: self._pick(item, key) for role, key in self.keys.items()}
        if "weight" in found:
            found["weight"] = read_weight(found["weight"])
        return Item(**found)

    def pick_all(self, batch: Any) -> dict[str, Any]:
        """Pick the fields of a batch, by role, as they are."""
        return {role: self._pick(batch, key) for role, key in self.keys.items()}

    def _pick(self, item: Any, key: str | int) -> Any:
        if isinstance(item, Mapping):
            if key in item:
                return item[key]
            raise StillhouseError(
                f"a sample has no field {key!r}", where=_WHERE, hint=f"its fields are {describe_fields(item)}"
            )
        if not isinstance(item, Sequence) or isinstance(item, str):
            raise StillhouseError(f"a sample must be a tuple or a dict to have fields, got {type(item).__name__}")
        if isinstance(key, str) and key in getattr(item, "_fields", ()):  # a named tuple
            return getattr(item, key)
        if isinstance(key, int) and key < len(item):
            return item[key]
        what = f"a sample has no field {key!r}: it has {describe_fields(item)}"
        raise StillhouseError(what, where=_WHERE, hint="fields of a tuple are named by position, from 0")


def check_mask(fields: Fields | None, spec: TargetSpec | None) -> None:
    """Refuse a field ``mask`` of targets that are no mask with ``ignore`` and no depths; ``spec`` is None for classes.

    Raises:
        StillhouseError: there is one.
    """
    if fields is None or "mask" not in fields.keys:
        return
    if spec is None or (spec.target != "depth" and (spec.target != "mask" or spec.ignored is None)):
        kind = "class" if spec is None else spec.target
        raise StillhouseError(
            f"the field `mask` needs targets of kind 'mask' with `ignore`, or 'depth', got {kind!r}", where=_WHERE
        )


def read_target(target: Any, mask: Any, spec: TargetSpec) -> Any:
    """Convert a target, with what its ``mask`` leaves out as pixels without a label; None leaves nothing out.

    Raises:
        StillhouseError: it is not of the kind that ``spec`` says, or the mask is of another size.
    """
    read = spec.read(target)
    if mask is None:
        return read
    return _hide(read, mask, 0.0 if spec.target == "depth" or spec.ignored is None else spec.ignored)


def describe_fields(item: Any) -> str:
    """Say which fields a sample has."""
    if isinstance(item, Mapping):
        return ", ".join(map(repr, list(item)[:_SHOWN])) + (", ..." if len(item) > _SHOWN else "")
    return f"{len(item)} values: {', '.join(type(part).__name__ for part in item[:_SHOWN])}"


def read_weight(value: Any) -> float:
    """Read a sample's weight.

    Raises:
        StillhouseError: it is no finite number of at least 0.
    """
    try:
        weight = float(value)
        shown = f"{weight:g}"
    except (TypeError, ValueError):
        weight, shown = math.nan, repr(value) if len(repr(value)) <= 40 else type(value).__name__
    if not (math.isfinite(weight) and weight >= 0):
        raise StillhouseError(f"a sample's weight must be a number >= 0, got {shown}")
    return weight


def _hide(target: Tensor, mask: Any, without: float) -> Tensor:
    """Put ``without`` where the ``mask`` is false.

    Args:
        target: a mask (H, W) or depths (1, H, W).
        mask: (H, W) or (1, H, W), a PIL image, an array or a tensor; what is not 0 counts.
        without: what a pixel without a label has.

    Raises:
        StillhouseError: the mask has another size.
    """
    counts = torch.as_tensor(np.asarray(mask)) != 0
    if counts.numel() != target.numel() or counts.shape[-2:] != target.shape[-2:]:
        raise StillhouseError(
            f"the field `mask` must have the target's size {tuple(target.shape[-2:])}, got {tuple(counts.shape)}"
        )
    return torch.where(counts.reshape(target.shape), target, torch.as_tensor(without, dtype=target.dtype))
