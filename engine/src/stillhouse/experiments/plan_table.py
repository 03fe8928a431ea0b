"""The table of a plan's finished runs: each arm beside the empty list and the full one of its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from stillhouse.experiments.arms import Arm
from stillhouse.experiments.choice import CHOSEN
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.compatibility import check_alike, collect_facts
from stillhouse.experiments.costs import average_costs, count_alarms
from stillhouse.experiments.finished_run import FinishedRun, MissingRun, judge_runs
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.run_groups import choose_metric, read_metric, read_report
from stillhouse.experiments.stopped_arm import StoppedArm

__all__ = ["count_comparisons", "find_references", "make_comparison"]


def make_comparison(
    plan: Plan, *, metric: str | None = None, failed: Mapping[int, str] | None = None, mixed: bool = False
) -> Comparison:
    """Compare a plan's finished runs, whichever process trained them.

    Args:
        plan: the plan.
        metric: see :func:`ablate`.
        failed: errors of missing runs, by their number.
        mixed: see :func:`ablate`.

    Raises:
        StillhouseError: an unknown metric; runs of other data, weights, code or versions, unless ``mixed``.
    """
    found: dict[str, list[FinishedRun]] = {arm.name: [] for arm in plan.arms}
    missing: dict[str, list[MissingRun]] = {arm.name: [] for arm in plan.arms}
    for run in plan.runs():
        summary = run.summary()
        if summary is not None:
            found[run.arm].append(FinishedRun.of(run.folder, run.recipe, summary, run.arm))
            continue
        error = (failed or {}).get(run.index) or read_report(run.folder)
        missing[run.arm].append(MissingRun(run.folder, run.recipe, run.seed, error, run.arm))
    every = [run for runs in found.values() for run in runs]
    told: list[str] = []
    if every:
        metric = metric or choose_metric(every)
        told = check_alike(every, mixed=mixed)
    told_choices = {choice.arm: {CHOSEN: choice.tell()} for choice in plan.choices}
    groups = []
    for arm in plan.arms:
        values, without = read_metric(found[arm.name], metric or "", arm.name)
        missing[arm.name] += without
        groups.append(
            Group(
                arm.name,
                values,
                columns=_name_columns(arm) | told_choices.get(arm.name, {}),
                against=find_references(arm, plan.arms),
                note="; ".join(filter(None, [arm.reason, *(f"= {other}" for other in arm.also)])),
                failed={run.seed: run.error for run in missing[arm.name]},
                facts=collect_facts(found[arm.name]),
                costs=average_costs([run.summary for run in found[arm.name]]),
                alarms=count_alarms([run.summary for run in found[arm.name]]),
                recipe=arm.recipe,
                runs=tuple(found[arm.name]),
                judged=judge_runs(found[arm.name], metric or ""),
            )
        )
    groups += [_make_stopped(arm, why, told_choices.get(arm.name, {})) for arm, why in plan.stopped]
    columns = dict.fromkeys(key for group in groups for key in group.columns)
    order = {run.folder: run.index for run in plan.runs()}
    lost = sorted((run for runs in missing.values() for run in runs), key=lambda run: order[run.folder])
    lacking = [run.to_dict(run.arm) for run in lost]
    return attrs.evolve(compare_groups(metric or "", groups, tuple(columns), lacking, told), choices=plan.choices)


def _make_stopped(arm: Arm, why: StoppedArm, chosen: Mapping[str, str]) -> Group:
    """A row without values, which no other is compared with."""
    note = "; ".join(filter(None, [why.tell(), arm.reason, *(f"= {other}" for other in arm.also)]))
    return Group(arm.name, {}, columns=_name_columns(arm) | dict(chosen), note=note, recipe=arm.recipe, stopped=why)


def _name_columns(arm: Arm) -> dict[str, str]:
    return {key.removeprefix("plugins."): value for key, value in arm.settings.items()}


def find_references(arm: Arm, arms: Sequence[Arm]) -> dict[str, str]:
    """The arms of its group with the empty list and with the full one, by their kind."""
    found = {}
    for kind in ("none", "full"):
        for other in arms:
            if other.group == arm.group and (other.kind == kind or any(n.split(" ")[0] == kind for n in other.also)):
                found[kind] = other.name
    if "none" in found and found.get("full") == found["none"]:
        return {"none": found["none"]}
    return found


def count_comparisons(plan: Plan) -> list[int]:
    """How many comparisons the plan's table corrects together: for each reference, those with the other arms."""
    against = {arm.name: find_references(arm, plan.arms) for arm in plan.arms}
    titles = dict.fromkeys(title for found in against.values() for title in found)
    return [sum(found.get(title, name) != name for name, found in against.items()) for title in titles]
