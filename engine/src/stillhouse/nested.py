"""Tensors in nested tuples, lists and dicts: a batch's inputs and targets, a model's output, a state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["list_tensors", "map_tensors", "slice_rows"]


def map_tensors(function: Callable[[Any], Any], tree: Any, kind: type = Tensor) -> Any:
    """Apply ``function`` to every tensor (or ``kind``) in the tuples, lists and dicts of ``tree``; returns a copy."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value, kind) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return _rebuild_like(tree, (map_tensors(function, value, kind) for value in tree))
    return tree


def slice_rows(tree: Any, rows: slice | int, n: int) -> Any:
    """Slice samples, or one, out of a batch of ``n``: tensors and lists of ``n`` by row; dicts and tuples by entry."""
    if isinstance(tree, Tensor) or (isinstance(tree, list) and len(tree) == n):
        return tree[rows]
    if isinstance(tree, Mapping):
        return {key: slice_rows(value, rows, n) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return _rebuild_like(tree, (slice_rows(value, rows, n) for value in tree))
    return tree


def list_tensors(tree: Any) -> list[Tensor]:
    """List all tensors of ``tree``, in order; a dict's by their keys' text."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [tensor for key in sorted(tree, key=str) for tensor in list_tensors(tree[key])]
    if isinstance(tree, list | tuple):
        return [tensor for value in tree for tensor in list_tensors(value)]
    return []


def _rebuild_like(tree: Any, values: Iterable[Any]) -> Any:
    """Return ``values`` as a list or tuple of ``tree``'s type."""
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
