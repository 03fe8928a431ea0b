"""Successive halving: arms that are hopeless in short runs are stopped before any run that is reported.

Jamieson & Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016: each round has
half of the arms left and twice the epochs. Unlike there, nothing stops that is not behind its control as well: an
ablation asks how arms differ, and not only which is the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, raise_faults
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.listing import MOST_SEEDS
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_table import find_references
from stillhouse.experiments.stopped_arm import StoppedArm
from stillhouse.experiments.tuning import change_arm, measure_arms, plan_beside
from stillhouse.tasks.builder import build_task
from stillhouse.training.score import find_score

__all__ = ["Halving", "check_halving", "find_hopeless", "halve_plan", "list_budgets"]

_SHARES = (8, 4, 2)
"""Of the epochs, what the runs of each round have: an eighth, a quarter, half."""


@attrs.frozen
class Halving:
    """How hopeless arms are found.

    Attributes:
        seeds: how many of those that no ablation reports.
    """

    seeds: int = 2


def check_halving(halving: Halving, recipe: Recipe, factorial: Sequence[str]) -> None:
    """Refuse halving that cannot be.

    Args:
        halving: how.
        recipe: of the ablation.
        factorial: its factors, whose effects need every arm.

    Raises:
        StillhouseError: no seeds, no epochs to halve, a factorial.
    """
    faults = []
    if halving.seeds < 1:
        faults.append(Fault("--halving-seeds", f"must be >= 1, got {halving.seeds}"))
    if recipe.run.epochs < 2:
        faults.append(Fault("--halving", "needs runs of two epochs or more", "leave it out, or raise run.epochs"))
    if factorial:
        faults.append(
            Fault("--halving", "stops arms, and the effects of --factorial need all of them", "leave one out")
        )
    raise_faults(faults)


def list_budgets(epochs: int) -> list[int]:
    """The epochs of each round's runs, where whole ones have ``epochs``."""
    return list(dict.fromkeys(max(1, epochs // share) for share in _SHARES))


def halve_plan(plan: Plan, halving: Halving, *, jobs: int = 1, progress: bool = False) -> Plan:
    """The plan without the arms that are hopeless, which it keeps as its ``stopped``.

    A round's runs are whole runs of fewer epochs, their schedules included, and lie in a folder beside the plan's,
    ``NAME-halving``, where they are kept. They end before anything is decided, so ``jobs`` changes no decision.

    Args:
        plan: with every arm.
        halving: how they are found.
        jobs: runs at a time.
        progress: show progress on the terminal.

    Raises:
        StillhouseError: there is no validation split; every run of a round failed.
    """
    task = build_task(plan.recipe.task, plan.recipe.base)
    score, epochs = find_score(plan.recipe.checkpoints, task), plan.recipe.run.epochs
    metric = f"val/{score.name}"
    # Behind the seeds by which arms may have chosen: what fits those best would be judged by its luck.
    base = plan_beside(plan, "halving", plan.recipe.run.seed + 2 * MOST_SEEDS, halving.seeds)
    left, stopped = plan.arms, []
    for budget in list_budgets(epochs):
        if not _list_stoppable(left):
            break
        short = {arm.name: _shorten(arm, budget) for arm in left}
        scores = measure_arms(attrs.evolve(base, arms=tuple(short.values())), metric, jobs, progress)
        means = {name: _mean(scores[arm.name]) for name, arm in short.items()}
        hopeless = find_hopeless(left, means, score.mode)
        for name, control in hopeless.items():
            reached = means[control]
            assert reached is not None  # nobody is behind an arm without a score
            stopped.append(StoppedArm(name, budget, epochs, metric, means[name], control, reached, base.seeds))
        left = tuple(arm for arm in left if arm.name not in hopeless)
    names = {each.arm: each for each in stopped}
    return attrs.evolve(
        plan, arms=left, stopped=tuple((arm, names[arm.name]) for arm in plan.arms if arm.name in names)
    )


def find_hopeless(
    arms: Sequence[Arm], means: Mapping[str, float | None], mode: Literal["max", "min"]
) -> dict[str, str]:
    """The arms to stop, each with the control that it is behind.

    Those in the worse half of their group that are behind its control as well. References are never stopped: what others
    are compared with. An arm without a mean is the worst; where the control has none, nothing is stopped.

    Args:
        arms: those that are left.
        means: of each arm's score, by its name; None where a run failed.
        mode: which is better.
    """
    sign = 1.0 if mode == "max" else -1.0
    found = {}
    for group in dict.fromkeys(arm.group for arm in arms):
        members = [arm for arm in arms if arm.group == group]
        ranks = {arm.name: -float("inf") if (m := means[arm.name]) is None else sign * m for arm in members}
        better = sorted(ranks, key=lambda name: -ranks[name])[: (len(members) + 1) // 2]
        for arm in _list_stoppable(members):
            control = next(iter(find_references(arm, arms).values()), arm.name)
            worse = arm.name not in better or means[arm.name] is None
            if worse and ranks[arm.name] < ranks[control]:
                found[arm.name] = control
    return found


def _list_stoppable(arms: Sequence[Arm]) -> list[Arm]:
    """All but the references."""
    kept = {name for arm in arms for name in find_references(arm, arms).values()}
    return [arm for arm in arms if arm.name not in kept]


def _shorten(arm: Arm, epochs: int) -> Arm:
    changes = {"run.epochs": epochs, "run.test": False}
    return change_arm(arm, changes, f"{arm.name}, run.epochs={epochs}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
