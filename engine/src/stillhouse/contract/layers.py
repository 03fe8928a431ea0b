"""Layers by dotted path or glob."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["Which", "find_layers", "match_layers", "match_names", "split_layer"]


Which = str
"""A model's name: ``student``, ``teacher``, or that of a further teacher, ``NAME`` of ``[teachers.NAME]``."""


def split_layer(model: Which, layer: str) -> tuple[Which, str]:
    """Which model, and which layer of it, ``layer`` of ``model`` means: the teacher's ``NAME:layer`` is NAME's ``layer``."""
    if model != "teacher" or ":" not in layer:
        return model, layer
    name, _, own = layer.partition(":")
    return name, own


def find_layers(model: nn.Module, which: Which, pattern: str) -> list[str]:
    """The dotted paths in ``model`` that the path or glob ``pattern`` matches, in ``named_modules`` order.

    ``*`` and ``?`` match within one path component, ``**`` across components: ``stages.*`` is every stage and
    not what is inside.

    Raises:
        StillhouseError: nothing matches; it names the nearest layers.
    """
    return match_layers([name for name, _ in model.named_modules()], which, pattern)


def match_layers(names: Sequence[str], which: Which, pattern: str) -> list[str]:
    """:func:`find_layers` among ``names``."""
    if pattern in names:
        return [pattern]
    found = [n for n in names if n and _glob(n.split("."), pattern.split("."))]
    if not found:
        raise StillhouseError(
            f"the {which} has no layer {pattern!r}", hint=did_you_mean(pattern, (n for n in names if n))
        )
    return found


def _glob(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_glob(name[i:], pattern[1:]) for i in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _glob(name[1:], pattern[1:])


def match_names(pattern: str, names: Any) -> list[str]:
    """The names that the glob ``pattern`` matches, in their own order; case matters."""
    from fnmatch import fnmatchcase

    return [name for name in names if fnmatchcase(name, pattern)]
