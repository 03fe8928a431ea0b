"""Paths in the home folder: written as ``~`` in what a run keeps, and whole in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["change_texts", "expand_home", "find_path", "shorten_home"]

_SHORT = re.compile(r"(?P<scheme>(?:[\w.-]+:)*)~(?P<rest>/.*)", re.DOTALL)


def expand_home(tables: Any) -> Any:
    """Return plain tables in which texts of the form ``~/...`` or ``folder:~/...`` have the home folder's own path."""
    found = _home()
    if not found:
        return tables

    def expand(text: str) -> str:
        match = _SHORT.fullmatch(text)
        return text if match is None else f"{match['scheme']}{found[0]}{match['rest']}"

    return change_texts(tables, expand)


def find_path(text: str, base: Path | None) -> Path:
    """The path that a recipe's text means: from the recipe's folder ``base`` on, ``~`` the home folder."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~somebody, whom this machine does not know: there is no such file
        path = Path(text)
    return (base or Path()) / path


def shorten_home(tables: Any) -> Any:
    """Return plain tables in which the home folder's path, at the start or after ``folder:``, is written ``~``.

    What a run's folder holds is handed on and published; whose it was is nobody's business.
    """
    homes = "|".join(map(re.escape, _home()))
    if not homes:
        return tables
    pattern = re.compile(rf"((?:[\w.-]+:)*)(?:{homes})(/.*)?", re.DOTALL)

    def shorten(text: str) -> str:
        match = pattern.fullmatch(text)
        return text if match is None else f"{match[1]}~{match[2] or '/'}"

    return change_texts(tables, shorten)


def _home() -> list[str]:
    """The home folder, and where it really lies; none where it cannot be told, or is the root of all."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    return [str(path) for path in dict.fromkeys((home, home.resolve())) if len(path.parts) > 1]


def change_texts(value: Any, change: Callable[[str], Any]) -> Any:
    """Return plain tables in which every text is what ``change`` makes of it; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: change_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [change_texts(each, change) for each in value]
    return value
