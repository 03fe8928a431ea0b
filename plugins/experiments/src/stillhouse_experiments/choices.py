"""Values that an experiment chooses before it is run: those with the best mean on the validation split.

The runs that choose have seeds of their own and do not measure the test split. Like all runs they are kept. The full tier
takes what the small one has chosen.
"""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from stillhouse.experiments.arms import Arm
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.search import list_cells
from stillhouse.experiments.tuning import change_arm, choose_values
from stillhouse_experiments.experiment import Experiment
from stillhouse_experiments.plan import Values

__all__ = ["taken", "tuned"]


def tuned(
    experiment: Experiment, *, jobs: int, until: float | None = None
) -> tuple[Experiment, list[Choice], list[Plan]]:
    """The experiment with the chosen values, what was chosen, and the plans of the runs that chose it.

    First what arms share is chosen, on the references, then with that what each arm has of its own.

    Raises:
        StillhouseError: all runs of an arm or of a round failed, or there is no validation split.
        UnfinishedError: ``until`` came, see :func:`stillhouse.experiments.tuning.choose_values`.
    """
    if experiment.tuning is None:
        return experiment, [], []
    tuning = experiment.tuning
    choices: list[Choice] = []
    plans: list[Plan] = []
    if tuning.shared:
        references = [(arm, tuning.shared) for arm in _references(experiment)]
        plan, found = _choose(experiment, "shared", references, jobs, until)
        choices = [attrs.evolve(choice, shared=True) for choice in found]
        plans.append(plan)
    own = [(arm, tuning.arms[arm.name]) for arm in _applied(experiment, choices).plan.arms if arm.name in tuning.arms]
    if own:
        plan, found = _choose(experiment, "arms", own, jobs, until)
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
        change_arm(arm, {**shared.get(experiment.reference_of(arm), {}), **own.get(arm.name, {})})
        for arm in experiment.plan.arms
    )
    return attrs.evolve(experiment, plan=attrs.evolve(experiment.plan, arms=arms))


def _choose(
    experiment: Experiment, stage: str, arms: list[tuple[Arm, Values]], jobs: int, until: float | None
) -> tuple[Plan, list[Choice]]:
    assert experiment.tuning is not None
    base, tuning = experiment.plan, experiment.tuning
    plan = Plan(base.recipe, (), tuning.seeds, Path(f"{base.folder}-tuning") / stage)
    return choose_values(plan, arms, widen=tuning.widen, jobs=jobs, until=until)


def _is_of(choice: Choice, values: Values) -> bool:
    """Whether it was made among ``values``, or among those with which their grid went on."""
    if choice.chosen.keys() != values.keys():
        return False
    tried = [cell for cell, _ in choice.tried]
    return choice.chosen in list_cells(values) or all(cell in tried for cell in list_cells(values))
