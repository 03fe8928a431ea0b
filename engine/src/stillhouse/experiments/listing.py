"""The runs of an ablation by their numbers, as ``--list`` prints them: nothing is built for it, and torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.entries import PLUGINS, find
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.experiments.arms import name_arms
from stillhouse.experiments.grid import Axis, parse_factors, parse_grid
from stillhouse.experiments.plan import name_folders, read_finished_summary, read_plan

__all__ = ["MOST_SEEDS", "ListedRun", "choose_axes", "choose_folder", "choose_kinds", "choose_seeds", "list_runs"]

MOST_SEEDS = 10_000
"""Of an arm; seeds from there on are never reported."""


@attrs.frozen
class ListedRun:
    """A run that an ablation may have.

    Attributes:
        index: its number, as ``--only`` takes it.
        arm: the name of the arm that was asked for.
        seed: the run's seed.
        folder: the run's folder.
        finished: whether it is trained to its end.
    """

    index: int
    arm: str
    seed: int
    folder: str
    finished: bool


def list_runs(
    recipe: Recipe,
    *,
    seeds: int,
    leave_one_out: bool = False,
    one_at_a_time: bool = False,
    grid: Sequence[str] = (),
    factorial: Sequence[str] = (),
    out: str | Path | None = None,
) -> list[ListedRun]:
    """List the runs of every arm that is asked for, each under every seed; see :func:`ablate` for the arguments.

    Which arms are one run, and which cannot be built, shows when they are built, before the first run: an ablation's
    folder knows it from then on, and with one the runs are listed that there are.

    Raises:
        StillhouseError: bad input as far as names tell it: a plugin that is not installed, a key that no recipe has.
    """
    _check_plugins(recipe)
    numbers = choose_seeds(recipe, seeds)
    leave_one_out, one_at_a_time = choose_kinds(leave_one_out, one_at_a_time, [*grid, *factorial])
    axes = choose_axes(recipe, grid, factorial)
    names = name_arms(recipe, leave_one_out=leave_one_out, one_at_a_time=one_at_a_time, axes=axes)
    folder = choose_folder(recipe, out)
    merged = _read_merged(folder)
    folders = name_folders(names)
    found = []
    for place, seed in enumerate(numbers):
        for number, name in enumerate(names, start=place * len(names)):
            if merged.get(name) not in names:
                run = folder / folders[name] / f"seed-{seed}"
                found.append(ListedRun(number, name, seed, str(run), read_finished_summary(run) is not None))
    return found


def choose_seeds(recipe: Recipe, count: int) -> tuple[int, ...]:
    """The seeds of every arm, from the recipe's on.

    Raises:
        StillhouseError: there are none, or too many.
    """
    if not 1 <= count <= MOST_SEEDS:
        rule = ">= 1" if count < 1 else f"at most {MOST_SEEDS:,}"
        raise StillhouseError(f"must be {rule}, got {count}", where="--seeds")
    return tuple(range(recipe.run.seed, recipe.run.seed + count))


def choose_kinds(leave_one_out: bool, one_at_a_time: bool, grid: Sequence[str]) -> tuple[bool, bool]:
    """The kinds of arms, without each plugin and with each alone: both where neither is asked for, nor a grid."""
    both = not (leave_one_out or one_at_a_time or grid)
    return leave_one_out or both, one_at_a_time or both


def choose_axes(recipe: Recipe, grid: Sequence[str], factorial: Sequence[str]) -> list[Axis]:
    """The axes of the grid, and those of the plugins that are switched.

    Raises:
        StillhouseError: see :func:`parse_grid` and :func:`parse_factors`; options of plugins that vary while plugins are
            switched.
    """
    axes, switches = parse_grid(grid, recipe), parse_factors(factorial, recipe)
    options = [axis for axis in axes if axis.of_plugin]
    if options and switches:
        what = "must not be an option of a plugin where --factorial switches plugins"
        raise StillhouseError(
            what, where=f"--grid {options[0].key}", hint="an ablation for each, or the option with --set"
        )
    return [*axes, *switches]


def choose_folder(recipe: Recipe, out: str | Path | None) -> Path:
    """The ablation's folder: ``out``, or else the one that follows from the recipe's name."""
    return Path(out) if out is not None else Path("runs") / f"{recipe.run.name}-ablation"


def _check_plugins(recipe: Recipe) -> None:
    """Refuse plugins that are not installed; one that is named by its path is looked for when it is built."""
    faults: list[Fault] = []
    for index, table in enumerate(recipe.plugins):
        use, where = str(table.get("use", "")), f"plugins[{index}].use"
        if ":" in use:
            continue
        try:
            find(PLUGINS, use, where)
        except StillhouseError as error:
            faults += error.faults
    raise_faults(faults)


def _read_merged(folder: Path) -> dict[str, str]:
    """The names of arms that are another arm's run, with that arm's, as far as the plan in ``folder`` knows it."""
    plan: dict[str, Any] = read_plan(folder) or {"arms": ()}
    return {name: arm["name"] for arm in plan["arms"] for name in arm.get("merged", ())}
