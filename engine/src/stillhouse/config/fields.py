"""Strict fields: attrs classes of a recipe's tables check types in the same way when Python makes them."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import attrs

from stillhouse.config.structure import structure

__all__ = ["strict_fields"]


def strict_fields(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Check each field's value by :func:`stillhouse.config.structure.structure`; a ``field_transformer`` for attrs.

    A wrong type is a StillhouseError at the field's name, and a list becomes the tuple that the annotation asks for.
    """
    hints = typing.get_type_hints(cls)
    return [
        f if f.converter is not None else f.evolve(converter=_make_converter(f.name, hints[f.name])) for f in fields
    ]


def _make_converter(name: str, kind: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        return structure(value, kind, name)

    return convert
