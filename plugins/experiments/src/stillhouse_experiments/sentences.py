"""Sentences of pages that stand on arms: behind each, a mark says how many of these took a value at the end of what was tried."""

from __future__ import annotations

import re
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

    Raises:
        StillhouseError: a plan without numbers, or an arm that it lacks.
    """

    def fill(mark: re.Match[str]) -> str:
        found = [bool(ends) for part in mark[2].split(";") for ends in _list_ends(home, part)]
        told = f" ({END}: {sum(found)} of {len(found)} arms)" if any(found) else ""
        return f"{mark[1]}{told}{mark[3]}"

    return _MARK.sub(fill, text)


def _list_ends(home: Home, part: str) -> list[list[str]]:
    """The keys at an end of each arm that a part of a mark names."""
    name, _, listed = (piece.strip() for piece in part.partition(":"))
    known = read_ends(home.plan(name), Path(home.folder / "results" / f"{name}.json"))
    arms = [arm.strip() for arm in listed.split("|")] if listed else list(known)
    if unknown := [arm for arm in arms if arm not in known]:
        hint = did_you_mean(unknown[0], known)
        raise StillhouseError(f"unknown arm {unknown[0]!r}", where=f"the mark of {name}", hint=hint)
    return [known[arm] for arm in arms]
