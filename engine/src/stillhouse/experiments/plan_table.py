"""The table of a plan's finished runs: each arm beside the empty list and the full one of its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillhouse.experiments.arms import Arm
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.compatibility import warn_of_versions
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.run_groups import choose_metric, read_metric

__all__ = ["make_comparison"]


def make_comparison(plan: Plan, *, metric: str | None = None, failed: Mapping[int, str] | None = None) -> Comparison:
    """Compare a plan's finished runs, whichever process trained them.

    Args:
        plan: the plan.
        metric: see :func:`ablate`.
        failed: errors of missing runs, by their number.

    Raises:
        StillhouseError: an unknown metric.
    """
    found: dict[str, list[FinishedRun]] = {arm.name: [] for arm in plan.arms}
    missing = []
    for run in plan.runs():
        summary = run.summary()
        if summary is not None:
            found[run.arm].append(FinishedRun(run.folder, run.recipe, summary, run.arm))
            continue
        error = (failed or {}).get(run.index, "not trained yet")
        missing.append({"arm": run.arm, "seed": run.seed, "folder": str(run.folder), "error": error})
    every = [run for runs in found.values() for run in runs]
    if every:
        metric = metric or choose_metric(every)
        warn_of_versions([run.folder for run in every])
    groups = [
        Group(
            arm.name,
            read_metric(found[arm.name], metric or "", arm.name),
            columns=_name_columns(arm),
            against=_find_references(arm, plan.arms),
            note="; ".join(filter(None, [arm.reason, *(f"= {other}" for other in arm.also)])),
        )
        for arm in plan.arms
    ]
    columns = dict.fromkeys(key for group in groups for key in group.columns)
    return compare_groups(metric or "", groups, tuple(columns), missing)


def _name_columns(arm: Arm) -> dict[str, str]:
    return {key.removeprefix("plugins."): value for key, value in arm.settings.items()}


def _find_references(arm: Arm, arms: Sequence[Arm]) -> dict[str, str]:
    """Find the arms of its group with the empty list and with the full one."""
    found = {}
    for kind in ("none", "full"):
        for other in arms:
            if other.group == arm.group and (other.kind == kind or any(n.split(" ")[0] == kind for n in other.also)):
                found[kind] = other.name
    if "none" in found and found.get("full") == found["none"]:
        return {"none": found["none"]}
    return found
