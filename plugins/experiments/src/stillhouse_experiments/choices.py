"""Values that an experiment chooses before it is run: those with the best mean on the validation split.

The runs that choose have seeds of their own and do not measure the test split. Like all runs they are kept. The full tier
takes what the small one has chosen.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import attrs

from stillhouse import StillhouseError
from stillhouse.experiments.ablation import run_plan
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.tasks import build_task
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
        tried: settings and mean of the metric, in the order of the plan.
        chosen: the settings with the best mean, the first of equals.
    """

    arm: str
    shared: bool
    metric: str
    seeds: tuple[int, ...]
    tried: list[tuple[dict[str, Any], float]]
    chosen: dict[str, Any]

    def line(self) -> str:
        """A row of the table."""
        keys = ", ".join(f"`{key.removeprefix('plugins.')}`" for key in self.chosen)
        tried = "; ".join(f"{_values(settings)}: {mean:.4f}" for settings, mean in self.tried)
        return f"| {self.arm}{', for all arms' if self.shared else ''} | {keys} | {tried} | {_values(self.chosen)} |"


def tuned(
    experiment: Experiment, *, jobs: int, until: float | None = None
) -> tuple[Experiment, list[Choice], list[Plan]]:
    """The experiment with the chosen values, what was chosen, and the plans of the runs that chose it.

    First what arms share is chosen, on the references, then with that what each arm has of its own.

    Raises:
        StillhouseError: a run that failed, or no validation split.
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
    told = json.loads(numbers.read_text(encoding="utf-8")).get("chosen", [])
    choices = [Choice(**{**table, "seeds": tuple(table["seeds"])}) for table in told]
    tuning = experiment.tuning
    shared = {arm.name: tuning.shared for arm in _references(experiment)} if tuning.shared else {}
    for wanted, of_all in ((shared, True), (tuning.arms, False)):
        found = {choice.arm: choice.chosen for choice in choices if choice.shared is of_all}
        if found.keys() != wanted.keys():
            return None
        for name, values in wanted.items():
            if found[name] not in _cells(values):
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
    assert experiment.tuning is not None
    base = experiment.plan
    task = build_task(base.recipe.task, base.recipe.base)
    metric = f"val/{task.score}"
    candidates = {arm.name: [(cell, _candidate(arm, cell)) for cell in _cells(values)] for arm, values in arms}
    every = tuple(arm for found in candidates.values() for _, arm in found)
    folder = Path(f"{base.folder}-tuning") / stage
    plan = Plan(base.recipe, every, experiment.tuning.seeds, folder)
    failed = run_plan(plan, jobs=jobs, progress=True, until=until)
    if failed:
        raise StillhouseError(f"a run that was to choose a value failed: {next(iter(failed.values()))}")
    if any(run.summary() is None for run in plan.runs()):
        raise UnfinishedError
    # A candidate that has no score under some seed is none: the others' seeds would not be the same.
    means = {
        row.group.name: None if row.group.failed else row.mean for row in make_comparison(plan, metric=metric).rows
    }
    sign = 1 if task.score_mode == "max" else -1
    choices = []
    for name, cells in candidates.items():
        tried = [(cell, mean) for cell, arm in cells if (mean := means[arm.name]) is not None]
        if not tried:
            raise StillhouseError(f"no value has a finite {metric} under every seed", where=f"the choice for {name!r}")
        best = max(tried, key=lambda each: sign * each[1])
        choices.append(Choice(name, False, metric, plan.seeds, tried, best[0]))
    return plan, choices


def _candidate(arm: Arm, cell: dict[str, Any]) -> Arm:
    name = ", ".join([arm.name, *(f"{key.removeprefix('plugins.')}={json.dumps(v)}" for key, v in cell.items())])
    return changed(arm, {**cell, "run.test": False}, name)


def _cells(values: Values) -> list[dict[str, Any]]:
    return [dict(zip(values, cell, strict=True)) for cell in itertools.product(*values.values())]


def _values(settings: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in settings.values())
