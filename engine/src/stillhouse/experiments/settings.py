"""Settings of runs by key: those that differ, and their texts in tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.config.names import default_name
from stillhouse.config.recipe import BESIDE_THE_RESULT, Recipe, find_nested
from stillhouse.training.folder import flat

__all__ = ["find_differing", "flatten_settings", "format_value", "shorten_values"]


def flatten_settings(recipe: Recipe) -> dict[str, Any]:
    """Flatten the settings that decide the result, the seed left out; plugins by their names, their list under ``plugins``."""
    tables = recipe.to_dict()
    plugins = tables.get("plugins", [])
    found: dict[str, Any] = {}
    _drop_beside_the_result(tables)
    tables.pop("plugins", None)
    tables["run"].pop("seed", None)
    found |= flat(tables)
    found["plugins"] = ", ".join(str(table.get("name") or default_name(table["use"])) for table in plugins) or "none"
    for table in plugins:
        name = str(table.get("name") or default_name(table["use"]))
        options = {key: value for key, value in table.items() if key != "name" and (key, value) != ("use", name)}
        found |= {f"{name}.{key}": value for key, value in options.items()}
    return found


def _drop_beside_the_result(tables: dict[str, Any]) -> None:
    """Drop what does not decide the result, from a recipe and from those that it names, at any depth."""
    for table, keys in BESIDE_THE_RESULT.items():
        for key in keys:
            tables.get(table, {}).pop(key, None)
    tables.pop("checkpoints", None)
    for _, model in find_nested(tables):
        _drop_beside_the_result(model["recipe"])


def find_differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find the keys whose values differ; a missing key counts as a value where its table is there."""
    shown = []
    for key in dict.fromkeys(key for each in settings for key in each):
        table = key.rpartition(".")[0]
        having = [s for s in settings if key in s or not table or any(k.startswith(f"{table}.") for k in s)]
        if len({json.dumps(s.get(key), sort_keys=True, default=str) for s in having}) > 1:
            shown.append(key)
    return sorted(shown, key=lambda key: key != "plugins")


def format_value(value: Any) -> str:
    """Format a value in full: text unchanged, anything else as JSON."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash
    return value if isinstance(value, str) else json.dumps(value, default=str)


def shorten_values(values: Sequence[Any]) -> list[str]:
    """Shorten the values of one setting for a table: links as ``student->teacher``.

    Options of links follow in brackets where the values differ in them: ``stage3->stage3 (pool=none)``.

    Args:
        values: of one key, one for each group; None where a group has none.
    """
    links = [value for value in values if value is not None]
    if not links or not all(_are_links(value) for value in links):
        return [format_value(value) for value in values]
    plain = [_format_links(value, ()) for value in values]
    if len(set(plain)) == len({json.dumps(value, sort_keys=True, default=str) for value in values}):
        return plain
    every = [link for value in links for link in value]
    keys = [key for key in dict.fromkeys(k for link in every for k in link) if key not in ("student", "teacher")]
    varied = [key for key in keys if len({json.dumps(link.get(key), default=str) for link in every}) > 1]
    return [_format_links(value, varied) for value in values]


def _are_links(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(link, Mapping) and {"student", "teacher"} <= link.keys() for link in value
    )


def _format_links(value: Any, keys: Sequence[str]) -> str:
    if value is None:
        return format_value(None)
    told = []
    for link in value:
        more = ", ".join(f"{key}={format_value(link[key])}" for key in keys if link.get(key) is not None)
        told.append(f"{link['student']}->{link['teacher']}" + (f" ({more})" if more else ""))
    return ", ".join(told) or "none"
