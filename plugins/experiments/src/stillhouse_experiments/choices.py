"""Values that an experiment chooses before it is run: those with the best mean on the validation split.

The runs that choose have seeds of their own and do not measure the test split. Like all runs they are kept. The full tier
takes what the small one has chosen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse import StillhouseError
from stillhouse.experiments.ablation import run_plan
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.experiments.search import Search, find_ends, list_cells
from stillhouse.tasks import build_task
from stillhouse_experiments.ends import END
from stillhouse_experiments.experiment import Experiment, changed
from stillhouse_experiments.plan import Values

__all__ = ["Choice", "UnfinishedError", "taken", "tuned"]


class UnfinishedError(Exception):
    """Time was over before the last run that was to choose a value had ended."""


@attrs.frozen
class Choice:
    """Settings chosen for an arm.

    Attributes:
        arm: the arm's name.
        shared: whether all arms of its setting take it.
        metric: by which.
        seeds: over which its mean was taken.
        tried: settings and mean of the metric, in the order in which they were tried; no mean where a run had no score.
        chosen: the best settings: see :attr:`stillhouse.experiments.search.Search.best`.
    """

    arm: str
    shared: bool
    metric: str
    seeds: tuple[int, ...]
    tried: list[tuple[dict[str, Any], float | None]]
    chosen: dict[str, Any]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Choice:
        """The choice of a table of an experiment's numbers."""
        return cls(
            **{**table, "seeds": tuple(table["seeds"]), "tried": [(cell, mean) for cell, mean in table["tried"]]}
        )

    @property
    def ends(self) -> list[str]:
        """The keys for which what was chosen is at the end of what was tried."""
        return find_ends(self.chosen, [settings for settings, _ in self.tried])

    def line(self) -> str:
        """A row of the table."""
        keys = ", ".join(f"`{key.removeprefix('plugins.')}`" for key in self.chosen)
        tried = "; ".join(f"{_values(cell)}: {'–' if mean is None else f'{mean:.4f}'}" for cell, mean in self.tried)  # noqa: RUF001 - a dash
        chosen = ", ".join(f"{value} {END}" if key in self.ends else str(value) for key, value in self.chosen.items())
        return f"| {self.arm}{', for all arms' if self.shared else ''} | {keys} | {tried} | {chosen} |"


def tuned(
    experiment: Experiment, *, jobs: int, until: float | None = None
) -> tuple[Experiment, list[Choice], list[Plan]]:
    """The experiment with the chosen values, what was chosen, and the plans of the runs that chose it.

    First what arms share is chosen, on the references, then with that what each arm has of its own.

    Raises:
        StillhouseError: all runs of an arm or of a round failed, or there is no validation split.
        UnfinishedError: ``until`` came, see :func:`stillhouse.experiments.ablation.run_plan`.
    """
    if experiment.tuning is None:
        return experiment, [], []
    tuning = experiment.tuning
    choices: list[Choice] = []
    plans: list[Plan] = []
    if tuning.shared:
        references = [(arm, tuning.shared) for arm in _references(experiment)]
        plan, found = _chosen(experiment, "shared", references, jobs, until)
        choices = [attrs.evolve(choice, shared=True) for choice in found]
        plans.append(plan)
    own = [(arm, tuning.arms[arm.name]) for arm in _applied(experiment, choices).plan.arms if arm.name in tuning.arms]
    if own:
        plan, found = _chosen(experiment, "arms", own, jobs, until)
        choices += found
        plans.append(plan)
    return _applied(experiment, choices), choices, plans


def taken(experiment: Experiment, numbers: Path) -> tuple[Experiment, list[Choice]] | None:
    """The experiment with the values that stand in the numbers of an earlier run of its plan, and what they were chosen from.

    None where there are no such numbers, or where the plan leaves other values open than they tell.
    """
    if experiment.tuning is None or not numbers.exists():
        return None
    choices = [Choice.of(table) for table in json.loads(numbers.read_text(encoding="utf-8")).get("chosen", [])]
    tuning = experiment.tuning
    shared = {arm.name: tuning.shared for arm in _references(experiment)} if tuning.shared else {}
    for wanted, of_all in ((shared, True), (tuning.arms, False)):
        if {choice.arm for choice in choices if choice.shared is of_all} != wanted.keys():
            return None
        if not all(_is_of(choice, wanted[choice.arm]) for choice in choices if choice.shared is of_all):
            return None
    return _applied(experiment, choices), choices


def _references(experiment: Experiment) -> list[Arm]:
    return [arm for arm in experiment.plan.arms if experiment.reference_of(arm) == arm.name]


def _applied(experiment: Experiment, choices: list[Choice]) -> Experiment:
    shared = {choice.arm: choice.chosen for choice in choices if choice.shared}
    own = {choice.arm: choice.chosen for choice in choices if not choice.shared}
    arms = tuple(
        changed(arm, {**shared.get(experiment.reference_of(arm), {}), **own.get(arm.name, {})})
        for arm in experiment.plan.arms
    )
    return attrs.evolve(experiment, plan=attrs.evolve(experiment.plan, arms=arms))


def _chosen(
    experiment: Experiment, stage: str, arms: list[tuple[Arm, Values]], jobs: int, until: float | None
) -> tuple[Plan, list[Choice]]:
    """What each of the arms chooses, and the plan of all the runs by which it does: rounds, until no grid goes on."""
    assert experiment.tuning is not None
    base, tuning = experiment.plan, experiment.tuning
    task = build_task(base.recipe.task, base.recipe.base)
    metric = f"val/{task.score}"
    searches = [(arm, Search(values, task.score_mode, tuning.widen)) for arm, values in arms]
    plan = Plan(base.recipe, (), tuning.seeds, Path(f"{base.folder}-tuning") / stage)
    while waiting := [
        (search, cell, _candidate(arm, cell)) for arm, search in searches for cell in search.open_cells()
    ]:
        this = attrs.evolve(plan, arms=tuple(candidate for _, _, candidate in waiting))
        scores = _measure(this, metric, jobs, until)
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


def _measure(plan: Plan, metric: str, jobs: int, until: float | None) -> dict[str, list[float]]:
    """The metric of each arm under every seed, once all runs are over; none where one of them has failed or has no score.

    Others' seeds would not be the same as such an arm's.

    Raises:
        StillhouseError: all runs have failed.
    """
    failed = run_plan(plan, jobs=jobs, progress=True, until=until)
    runs = plan.runs()
    if len(failed) == len(runs):
        raise StillhouseError(f"every run that was to choose a value failed: {failed[runs[0].index]}")
    if any(run.summary() is None and run.index not in failed for run in runs):
        raise UnfinishedError
    for run in runs:
        if run.index in failed:  # a rate or a weight at which it diverges, as a rule
            print(f"{run.arm}, seed {run.seed}, is no choice: {failed[run.index]}", file=sys.stderr)
    groups = [row.group for row in make_comparison(plan, metric=metric, failed=failed).rows]
    return {group.name: [] if group.failed else [group.values[seed] for seed in plan.seeds] for group in groups}


def _candidate(arm: Arm, cell: dict[str, Any]) -> Arm:
    name = ", ".join([arm.name, *(f"{key.removeprefix('plugins.')}={json.dumps(v)}" for key, v in cell.items())])
    return changed(arm, {**cell, "run.test": False}, name)


def _is_of(choice: Choice, values: Values) -> bool:
    """Whether it was made among ``values``, or among those with which their grid went on."""
    if choice.chosen.keys() != values.keys():
        return False
    tried = [cell for cell, _ in choice.tried]
    return choice.chosen in list_cells(values) or all(cell in tried for cell in list_cells(values))


def _values(settings: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in settings.values())
