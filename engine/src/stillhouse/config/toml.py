"""TOML as people's editors write it, and plain tables that a recipe can be made of."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = ["check_tables", "parse_toml"]

_DEEPEST = 64
"""Tables and lists in each other. A recipe needs two for each recipe that it asks for."""

_MOST = 100_000
"""Values in a recipe, each time that it is named: a few lines of YAML may name one another without end."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = 2**63


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        StillhouseError: not valid, or nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise StillhouseError("is nested too deeply", where=where, hint=f"at most {_DEEPEST} levels") from None
    except ValueError as error:  # TOMLDecodeError; and int() refuses numbers of more than 4,300 digits
        raise StillhouseError(f"is not valid TOML: {_short(error)}", where=where, hint=_hint(text, error)) from None


def _short(error: ValueError) -> str:
    what = str(error)
    return "a number has too many digits" if what.startswith("Exceeds the limit") else what


def _hint(text: str, error: ValueError) -> str:
    """How to write a path of Windows, where the line that is wrong has a backslash between double quotes."""
    found = re.search(r"at line (\d+)", str(error))
    line = text.splitlines()[int(found[1]) - 1] if found and int(found[1]) <= len(text.splitlines()) else ""
    if not re.search(r'"[^"]*\\', line):
        return ""
    return "between double quotes a backslash begins an escape: write C:/folder, or 'C:\\folder' between single quotes"


def check_tables(tables: Any, where: str = "") -> None:
    """Refuse plain data that a recipe cannot be made of, before anything walks through it.

    Args:
        tables: texts, numbers, lists and tables; objects of attrs classes are left to whoever takes them.
        where: the place that faults are prefixed with.

    Raises:
        StillhouseError: nested too deeply, a key that is no text, a control character, a whole number of more than 64
            bits, a date, None in a list.
    """
    if not isinstance(tables, Mapping):
        raise StillhouseError(f"must be a table, got {type(tables).__name__}", where=where)
    raise_faults(_find_faults(tables, where))


def _find_faults(tables: Mapping[Any, Any], where: str) -> Iterator[Fault]:
    waiting: list[tuple[str, Any, int]] = [(where, tables, 0)]
    seen = 0
    while waiting:  # not by recursion: depth is what is looked for
        place, value, depth = waiting.pop()
        seen += 1
        if seen > _MOST:
            yield Fault(where, f"is no recipe: it has more than {_MOST:,} values")
            return
        if depth > _DEEPEST:
            yield Fault(place[:60] + "...", "is nested too deeply", f"at most {_DEEPEST} levels")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if not isinstance(key, str):
                    yield Fault(place, f"a key must be text, got {key!r}")
                elif _CONTROL.search(key) or _SURROGATE.search(key):
                    yield Fault(place, f"a key must not have a control character, got {key[:40]!r}")
                else:
                    waiting.append((f"{place}.{key}" if place else key, inner, depth + 1))
        elif isinstance(value, list | tuple):
            if any(inner is None for inner in value):
                yield Fault(place, f"a list must not hold None, which TOML has not, got {value!r:.60}")
            waiting += [(f"{place}[{index}]", inner, depth + 1) for index, inner in enumerate(value)]
        elif isinstance(value, str):
            if _CONTROL.search(value):
                yield Fault(place, f"must not have a control character, got {value[:40]!r}")
            elif not value.isascii() and _SURROGATE.search(value):
                yield Fault(place, f"must be text in UTF-8, got {value[:40]!r}")
        elif isinstance(value, int):
            if not -_WHOLE <= value < _WHOLE:
                yield Fault(place, f"must be a whole number of at most 64 bits, got one of {value.bit_length()}")
        elif not (value is None or isinstance(value, float) or attrs.has(type(value))):
            yield Fault(place, f"must be text, a number, true or false, a list or a table, got {value!r:.60}")
