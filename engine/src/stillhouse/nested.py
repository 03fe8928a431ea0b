"""Tensors in nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["over_tensors", "rows_of"]


def over_tensors(function: Callable[[Any], Any], tree: Any, kind: type = Tensor) -> Any:
    """``tree`` with every tensor (or ``kind``) in its tuples, lists and dicts replaced by ``function`` of it."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: over_tensors(function, value, kind) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        made = [over_tensors(function, value, kind) for value in tree]
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    return tree


def rows_of(value: Any, start: int, end: int, n: int) -> Any:
    """Samples ``start`` to ``end`` of a batch's ``n``: of a tensor or list by row, of a table or tuple by entry."""
    if isinstance(value, Tensor) or (isinstance(value, list) and len(value) == n):
        return value[start:end]
    if isinstance(value, Mapping):
        return {key: rows_of(inner, start, end, n) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(rows_of(inner, start, end, n) for inner in value)
    return value
