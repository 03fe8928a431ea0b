"""Sentences of pages that stand on arms: behind each, a mark says how many of these took a value at the end of what was tried."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from stillhouse import StillhouseError
from stillhouse.errors import did_you_mean
from stillhouse.experiments.choice import END
from stillhouse_experiments.home import Home
from stillhouse_experiments.numbers import read_ends

__all__ = ["qualify"]

_MARK = re.compile(r"(<!-- ends of (.+?) -->).*?(<!-- end -->)")


def qualify(home: Home, text: str) -> str:
    """Fill the marks of a page: ``<!-- ends of PLAN: ARM | ARM; PLAN -->`` up to ``<!-- end -->``; without arms, all of a plan.

    An arm may be a pattern, as ``* TCS, pool`` for those of every number of labels.

    Raises:
        StillhouseError: a plan without numbers, or an arm that it lacks.
    """

    @cache
    def read(plan: str) -> dict[str, list[str]]:
        return read_ends(home.plan(plan), Path(home.folder / "results" / f"{plan}.json"))

    def fill(mark: re.Match[str]) -> str:
        found = [bool(ends) for part in mark[2].split(";") for ends in _list_ends(read, part)]
        told = f" ({END}: {sum(found)} of {len(found)} arms)" if any(found) else ""
        return f"{mark[1]}{told}{mark[3]}"

    return _MARK.sub(fill, text)


def _list_ends(read: Callable[[str], Mapping[str, list[str]]], part: str) -> list[list[str]]:
    """The keys at an end of each arm that a part of a mark names; ``read`` gives those of all arms of a plan."""
    name, _, listed = (piece.strip() for piece in part.partition(":"))
    known = read(name)
    patterns = [pattern.strip() for pattern in listed.split("|")] if listed else ["*"]
    if unknown := [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(arm, pattern) for arm in known)]:
        hint = did_you_mean(unknown[0], known)
        raise StillhouseError(f"unknown arm {unknown[0]!r}", where=f"the mark of {name}", hint=hint)
    return [ends for arm, ends in known.items() if any(fnmatch.fnmatchcase(arm, pattern) for pattern in patterns)]
