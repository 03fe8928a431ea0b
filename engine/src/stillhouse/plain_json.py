"""JSON that any reader takes: numbers that are not finite, which JSON does not have, are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

__all__ = ["replace_nonfinite", "to_json", "to_number"]

# Tensors, arrays and NumPy's scalars are known by what they can do: neither library is needed to print help.


def to_number(value: Any) -> float | None:
    """A single number of any library as a float, a tensor or array of one element too; None of anything else."""
    size = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    if size == 1 and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, Real) else None


def replace_nonfinite(value: Any) -> Any:
    """Plain data with None in the place of each number that is not finite, and numbers of other libraries as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(inner) for inner in value]
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    return value


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON of plain data; what is not finite is null."""
    return json.dumps(replace_nonfinite(value), indent=indent, allow_nan=False)
