"""Whether the best cell of a grid lies at an end of what was tried: beyond it may be a better one."""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from stillhouse.contract.task import Task
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.comparison import Comparison, Row
from stillhouse.experiments.search import find_ends, go_on

__all__ = ["find_mode", "note_ends"]


def find_mode(metric: str, task: Task) -> Literal["max", "min"] | None:
    """Whether more or less of ``SPLIT/NAME`` is better; None of a metric of which nobody says so."""
    name = metric.partition("/")[2]
    if name == task.score:
        return task.score_mode
    return "min" if name == "loss" else None


def note_ends(comparison: Comparison, arms: Sequence[Arm], mode: Literal["max", "min"] | None) -> Comparison:
    """The comparison with a remark at each grid's best arm that lies at an end of the grid, and what to try next.

    Args:
        comparison: of the arms' runs.
        arms: those of the grids have settings; each group of arms has a grid of its own. One that was stopped was tried as
            well, and is not the best.
        mode: which mean is the best; None: nothing is said.
    """
    means = {row.group.name: row.mean for row in comparison.rows if row.mean is not None}
    tried = means.keys() | {each.arm for each in comparison.stopped}
    grids: defaultdict[str, list[Arm]] = defaultdict(list)
    keys = {key for arm in arms if arm.kind == "grid" for key in arm.settings}
    for arm in arms:
        if keys and keys <= arm.settings.keys() and arm.name in tried:  # the full list may be one of the cells
            grids[arm.group].append(arm)
    notes: dict[str, str] = {}
    for cells in grids.values() if mode is not None else ():
        sign = 1.0 if mode == "max" else -1.0
        best = max(cells, key=lambda arm: sign * means[arm.name] if arm.name in means else -math.inf)
        told = [_tell(key, best, cells) for key in find_ends(_read(best), [_read(cell) for cell in cells])]
        if told:
            notes[best.name] = "; ".join(told)
    return attrs.evolve(comparison, rows=tuple(_add_note(row, notes) for row in comparison.rows))


def _tell(key: str, best: Arm, cells: Sequence[Arm]) -> str:
    value = _read(best)[key]
    further = go_on([_read(cell)[key] for cell in cells], value)
    short = key.removeprefix("plugins.")
    return f"the best of its grid, at an end of what was tried: try {short} = {further:g} beyond {value:g}"


def _read(arm: Arm) -> Mapping[str, Any]:
    """The arm's settings as values; one that is none in TOML is its text."""
    return {key: _parse(text) for key, text in arm.settings.items()}


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _add_note(row: Row, notes: Mapping[str, str]) -> Row:
    if row.group.name not in notes:
        return row
    note = "; ".join(filter(None, [row.group.note, notes[row.group.name]]))
    return attrs.evolve(row, group=attrs.evolve(row.group, note=note))
