"""Overrides of a recipe on the command line: ``--set KEY=VALUE``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from stillhouse.config.names import default_name
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["apply_override", "list_names", "parse_value"]


def parse_value(text: str) -> Any:
    """A value in TOML, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # what is wrong with it is said where it is used
        return text


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one key of a recipe's tables, in place.

    Args:
        data: the tables.
        override: ``a.b=value``; an item of a list is named by its ``name`` or ``use`` or its number, and the value is
            TOML, or else taken as text.

    Raises:
        StillhouseError: not of that form, or a path to no key.
    """
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise StillhouseError(f"must be KEY=VALUE, got {override!r}", where="--set", hint="--set optimizer.lr=3e-4")
    *parents, last = path.strip().split(".")
    table: Any = data
    for part in parents:
        table = _enter(table, part, override)
    if isinstance(table, list):
        raise StillhouseError(
            f"must set a key of a list's item, got {override!r}", where="--set", hint="name one of its keys"
        )
    if not isinstance(table, dict):
        raise StillhouseError(f"must set a key of a table, got {override!r} with the value {table!r}", where="--set")
    table[last] = parse_value(text.strip())


def _enter(table: Any, part: str, override: str) -> Any:
    if isinstance(table, list):
        items = [item for item in table if isinstance(item, dict)]
        own = [item for item in items if _name(item) == part]
        named = own or [item for item in items if part in list_names(item)]
        if len(named) > 1:
            known = ", ".join(dict.fromkeys(_name(item) for item in named))
            what = f"{override!r}: {len(named)} items of the list are called {part!r}"
            raise StillhouseError(what, where="--set", hint=f"by name or number: {known}")
        if named:
            return named[0]
        if re.fullmatch(r"\d+", part) and int(part) < len(table):
            return table[int(part)]
        raise StillhouseError(
            f"{override!r}: the list has no item {part!r}",
            where="--set",
            hint=did_you_mean(part, [_name(item) for item in items]),
        )
    if not isinstance(table, dict):
        raise StillhouseError(f"must set a key of a table, got {override!r} with the value {table!r}", where="--set")
    return table.setdefault(part, {})


def _name(item: Mapping[str, Any]) -> str:
    """An item's own name, or the one that it has without."""
    return str(item.get("name") or default_name(str(item.get("use"))))


def list_names(table: Mapping[str, Any]) -> tuple[Any, ...]:
    """List the names by which the command line may call an item of a list."""
    use = table.get("use")
    return table.get("name"), use, default_name(use) if isinstance(use, str) else None
