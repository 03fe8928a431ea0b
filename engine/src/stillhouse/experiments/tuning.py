"""Values that arms choose for themselves before anything is reported: on validation samples, under seeds of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.overrides import apply_override, parse_value
from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.experiments.arms import Arm, resolve
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.grid import Axis, parse_grid
from stillhouse.experiments.listing import MOST_SEEDS
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_runs import run_plan
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.experiments.search import Search, Values
from stillhouse.tasks.builder import build_task

__all__ = [
    "Tuning",
    "UnfinishedError",
    "change_arm",
    "check_tuning",
    "choose_values",
    "measure_arms",
    "plan_beside",
    "tune_plan",
]


class UnfinishedError(Exception):
    """Time was over before the last run that was to choose a value had ended."""


@attrs.frozen
class Tuning:
    """What every arm of an ablation chooses for itself.

    Attributes:
        values: ``KEY=VALUE,VALUE,...`` each, keys as in ``--grid``; an arm without a plugin leaves its options out.
        seeds: how many of the seeds behind any that an ablation may report.
        widen: by how many values a key's grid may go on where the best is at its end.
    """

    values: tuple[str, ...]
    seeds: int = 2
    widen: int = 3


def check_tuning(tuning: Tuning, recipe: Recipe, metrics: Mapping[str, Collection[str]]) -> None:
    """Refuse a choice that cannot be made.

    Args:
        tuning: what is to be chosen.
        recipe: of the ablation.
        metrics: the names of the metrics by split.

    Raises:
        StillhouseError: counts below one, a key that is none or has one value, no validation split.
    """
    faults = []
    if tuning.seeds < 1:
        faults.append(Fault("--tune-seeds", f"must be >= 1, got {tuning.seeds}"))
    if tuning.widen < 0:
        faults.append(Fault("--widen", f"must be >= 0, got {tuning.widen}"))
    if "val" not in metrics:
        faults.append(Fault("--tune", "needs a validation split to choose by", "data.val_fraction = 0.2"))
    faults += [
        Fault(f"--tune {axis.short}", "needs two values to choose from", f"{axis.short}=0.1,1,10")
        for axis in _parse(tuning, recipe)
        if len(axis.values) < 2
    ]
    raise_faults(faults)


def _parse(tuning: Tuning, recipe: Recipe) -> list[Axis]:
    try:
        return parse_grid(tuning.values, recipe)
    except StillhouseError as error:
        faults = [attrs.evolve(fault, where=fault.where.replace("--grid", "--tune")) for fault in error.faults]
        raise StillhouseError(faults=faults) from None


def tune_plan(plan: Plan, tuning: Tuning, *, jobs: int = 1, progress: bool = False) -> Plan:
    """The plan whose arms have the values that each has chosen for itself, of those of its keys that it has.

    The runs that choose lie in a folder beside the plan's, ``NAME-tuning``, and are kept.

    Args:
        plan: with the arms as the recipe has them.
        tuning: what they choose.
        jobs: runs at a time.
        progress: show progress on the terminal.

    Raises:
        StillhouseError: a key or a value that no recipe has; every run failed.
    """
    base = plan_beside(plan, "tuning", plan.recipe.run.seed + MOST_SEEDS, tuning.seeds)
    axes = _parse(tuning, plan.recipe)
    wanted = [(arm, values) for arm in plan.arms if (values := _list_values(arm, axes))]
    _, choices = choose_values(base, wanted, widen=tuning.widen, jobs=jobs, progress=progress)
    chosen = {choice.arm: choice.chosen for choice in choices}
    arms = tuple(change_arm(arm, chosen[arm.name]) if arm.name in chosen else arm for arm in plan.arms)
    return attrs.evolve(plan, arms=arms, choices=tuple(choices))


def plan_beside(plan: Plan, what: str, first: int, count: int) -> Plan:
    """A plan of no arms and of other seeds, ``count`` from ``first`` on, in a folder beside that of ``plan``, ``NAME-WHAT``."""
    seeds, folder = tuple(range(first, first + count)), Path(f"{plan.folder}-{what}")
    return attrs.evolve(plan, arms=(), names=(), seeds=seeds, folder=folder, figures=False, choices=())


def _list_values(arm: Arm, axes: Sequence[Axis]) -> Values:
    there = [axis for axis in axes if not axis.of_plugin or axis.key.split(".")[1] in arm.plugins]
    return {axis.key: [parse_value(value) for value in axis.values] for axis in there}


def choose_values(
    plan: Plan,
    wanted: Sequence[tuple[Arm, Values]],
    *,
    widen: int,
    jobs: int = 1,
    progress: bool = True,
    until: float | None = None,
) -> tuple[Plan, list[Choice]]:
    """What each arm chooses, and the plan of all the runs by which it does: rounds, until no grid goes on.

    Args:
        plan: of no arms, with the seeds and the folder of the runs that choose.
        wanted: arms, each with the values to choose from.
        widen: see :class:`stillhouse.experiments.search.Search`.
        jobs: runs at a time.
        progress: show progress on the terminal.
        until: see :func:`stillhouse.experiments.plan_runs.run_plan`.

    Raises:
        StillhouseError: all runs of an arm or of a round failed, or there is no validation split.
        UnfinishedError: ``until`` came.
    """
    task = build_task(plan.recipe.task, plan.recipe.base)
    metric = f"val/{task.score}"
    searches = [(arm, Search(values, task.score_mode, widen)) for arm, values in wanted]
    while waiting := [
        (search, cell, _candidate(arm, cell)) for arm, search in searches for cell in search.open_cells()
    ]:
        this = attrs.evolve(plan, arms=tuple(candidate for _, _, candidate in waiting))
        scores = measure_arms(this, metric, jobs, progress, until)
        for search, cell, candidate in waiting:
            search.add(cell, scores[candidate.name])
        plan = attrs.evolve(plan, arms=(*plan.arms, *this.arms))
    choices = []
    for arm, search in searches:
        try:
            chosen = search.best.settings
        except StillhouseError as error:
            raise error.within(f"the choice for {arm.name!r}, by {metric}") from None
        tried = [(each.settings, each.mean) for each in search.tried]
        choices.append(Choice(arm.name, False, metric, plan.seeds, tried, chosen))
    return plan, choices


def measure_arms(
    plan: Plan, metric: str, jobs: int, progress: bool, until: float | None = None
) -> dict[str, list[float]]:
    """The metric of each arm under every seed, once all runs are over; none where one of them has failed or has no score.

    Others' seeds would not be the same as such an arm's.

    Raises:
        StillhouseError: all runs have failed.
        UnfinishedError: ``until`` came.
    """
    failed = run_plan(plan, jobs=jobs, progress=progress, until=until)
    runs = plan.runs()
    if len(failed) == len(runs):
        raise StillhouseError(f"every run of a round failed: {failed[runs[0].index]}")
    if any(run.summary() is None and run.index not in failed for run in runs):
        raise UnfinishedError
    for run in runs:
        if run.index in failed:  # a rate or a weight at which it diverges, as a rule
            print(f"{run.arm}, seed {run.seed}, has no score: {failed[run.index]}", file=sys.stderr)
    groups = [row.group for row in make_comparison(plan, metric=metric, failed=failed).rows]
    return {group.name: [] if group.failed else [group.values[seed] for seed in plan.seeds] for group in groups}


def change_arm(arm: Arm, values: dict[str, Any], name: str | None = None) -> Arm:
    """The arm with other values of some keys."""
    tables = arm.recipe.to_dict()
    for key, value in values.items():
        apply_override(tables, f"{key}={json.dumps(value)}")
    return attrs.evolve(arm, recipe=resolve(Recipe.from_dict(tables, base=arm.recipe.base)), name=name or arm.name)


def _candidate(arm: Arm, cell: dict[str, Any]) -> Arm:
    name = ", ".join([arm.name, *(f"{key.removeprefix('plugins.')}={json.dumps(v)}" for key, v in cell.items())])
    return change_arm(arm, {**cell, "run.test": False}, name)
