"""A recipe's file as plain tables: TOML, YAML or JSON, with what it includes."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.home import find_path
from stillhouse.config.toml import check_tables, parse_toml
from stillhouse.config.trust import lies_in_run
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.files import open_file

__all__ = ["INCLUDE", "read_tables"]

INCLUDE = "include"
"""The key of a file that names those which it changes."""

_LARGEST = 16 * 2**20
"""Bytes that a recipe's file may have: more is no recipe, and a device has no end."""

_LONGEST = 16
"""Files that include each other, one after the other."""


def read_tables(path: Path) -> dict[str, Any]:
    """Read a recipe's file as plain tables; ``.yaml``, ``.yml`` and ``.json`` are read as such, all else as TOML.

    ``include = ["base.toml", ...]`` names files, from the file's own folder on, whose tables are there before: of
    several the later, and then the file itself, change the earlier ones key by key. A list is replaced whole.

    Raises:
        StillhouseError: no such file, no text in UTF-8, not of its format; files that include each other.
    """
    return _read(path, ())


def _read(path: Path, asked_by: Sequence[Path]) -> dict[str, Any]:
    where = str(path)
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        what = "is text in UTF-16" if wide else f"is not text in UTF-8: byte {error.start} is {content[error.start]:#x}"
        raise StillhouseError(what, where=where, hint="save it as UTF-8") from None
    tables = _PARSERS.get(path.suffix.lower(), parse_toml)(text, where)
    if INCLUDE not in tables:
        return tables
    if lies_in_run(path):
        raise StillhouseError(
            "a run's own recipe is whole and includes no other file",
            where=f"{where}: {INCLUDE}",
            hint="a recipe of yours",
        )
    chain = [*asked_by, Path(os.path.realpath(path))]
    merged: dict[str, Any] = {}
    for name in _list_included(tables.pop(INCLUDE), where):
        other = find_path(name, path.parent)
        if Path(os.path.realpath(other)) in chain or len(chain) >= _LONGEST:
            circle = " includes ".join([*(each.name for each in chain), other.name])
            raise StillhouseError(f"files include each other without end: {circle}", where=f"{where}: {INCLUDE}")
        try:
            merged = _change(merged, _read(other, chain))
        except StillhouseError as error:
            error.add_note(f"included by {where}")
            raise
    return _change(merged, tables)


def _read_bytes(path: Path) -> bytes:
    where = str(path)
    try:
        # A recipe may come through a pipe; one that a run has written may not, and would be waited for.
        with open_file(path) if path.name == "recipe.toml" else path.open("rb") as file:
            content: bytes = file.read(_LARGEST + 1)
    except FileNotFoundError:
        near = (
            [p.name for p in path.parent.iterdir() if p.suffix in (".toml", *_PARSERS)] if path.parent.is_dir() else []
        )
        raise StillhouseError("file not found", where=where, hint=did_you_mean(path.name, near)) from None
    except IsADirectoryError:
        raise StillhouseError("must be a file, got a folder", where=where, hint="RECIPE.toml") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in its name
        what = (error.strerror if isinstance(error, OSError) else None) or error
        raise StillhouseError(f"cannot be read: {what}", where=where) from None
    if len(content) > _LARGEST:
        raise StillhouseError(f"is no recipe: it has more than {_LARGEST // 2**20} MiB", where=where)
    return content


def _list_included(named: Any, where: str) -> list[str]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise StillhouseError(
            f"must be a list of files, got {named!r:.60}", where=f"{where}: {INCLUDE}", hint='["base.toml"]'
        )
    return names


def _change(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` says otherwise; tables are changed key by key."""
    changed = dict(below)
    for key, value in above.items():
        before = changed.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        changed[key] = _change(before, value) if both else value  # type: ignore[arg-type]  # both are tables
    return changed


def _parse_json(text: str, where: str) -> dict[str, Any]:
    try:
        tables = json.loads(text, object_pairs_hook=_refuse_twice)
    except RecursionError:
        raise StillhouseError("is nested too deeply", where=where) from None
    except ValueError as error:
        raise StillhouseError(f"is not valid JSON: {error}", where=where) from None
    return _drop_nothing(tables, where)


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        tables = yaml.load(text, Loader=_make_yaml_loader())  # noqa: S506  # a SafeLoader with fewer kinds of scalars
    except RecursionError:
        raise StillhouseError("is nested too deeply", where=where) from None
    except (yaml.YAMLError, ValueError) as error:
        raise StillhouseError(f"is not valid YAML: {' '.join(str(error).split())}", where=where) from None
    return _drop_nothing(tables, where)


def _make_yaml_loader() -> Any:
    """Make a loader of YAML 1.2's scalars: ``2e-3`` is a number, and ``no``, ``on`` and dates are text, as in TOML and JSON."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own class attribute

    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            "-+.0123456789",
        ),
        ("merge", r"<<", "<"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), list(first))
    Loader.add_constructor("tag:yaml.org,2002:int", _make_int)
    Loader.add_constructor("tag:yaml.org,2002:map", _make_map)
    return Loader


def _make_map(loader: Any, node: Any) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    _refuse_twice([(key, None) for key in keys if isinstance(key, str)])
    loader.flatten_mapping(node)
    made: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return made


def _refuse_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A table of its keys and values; YAML and JSON would take the last of a key that stands there twice, as TOML does not.

    Raises:
        ValueError: one does.
    """
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} stands there twice")
    return dict(pairs)


def _make_int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _drop_nothing(tables: Any, where: str) -> dict[str, Any]:
    """Tables without the keys that are null: TOML has none, and leaves such a key out."""
    try:
        check_tables(tables)
    except StillhouseError as error:
        raise error.within(where) from None

    def whole(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: whole(inner) for key, inner in value.items() if inner is not None}
        return [whole(inner) for inner in value] if isinstance(value, list) else value

    found: dict[str, Any] = whole(tables)
    return found


_PARSERS: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    ".json": _parse_json,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
