"""Comparisons of groups of runs that differ by their seed alone, each against one or two references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from stillhouse.config.recipe import Recipe
from stillhouse.experiments.bootstrap import Judged, compare_judged
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.costs import CountedAlarm
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.experiments.statistics import (
    LEVEL,
    POWER,
    Difference,
    holm,
    paired_difference,
    t_interval,
    welch_difference,
)
from stillhouse.experiments.stopped_arm import StoppedArm

__all__ = ["Comparison", "Group", "Row", "compare_groups"]


@attrs.frozen
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: the group's name.
        values: the metric by seed.
        columns: settings to show, by column, in full.
        against: the names of its reference groups, by the column's title.
        note: a remark.
        short: a setting's shorter text in tables, by column.
        failed: the runs that have no finite value, by seed, with the reason; they count as failures.
        facts: the values that its runs have of each thing that compared runs should have alike.
        costs: means over its runs, by a name of :data:`stillhouse.experiments.costs.COSTS`; empty where no run knows any.
        alarms: what its runs have raised.
        recipe: of its runs, but for the seed; None where none is known.
        runs: those that are finished, for a report of them.
        judged: the test samples of those that have kept what they said of them, by seed.
        stopped: where and why it was stopped before any run; it has no value and no reference then.
    """

    name: str
    values: Mapping[int, float]
    columns: Mapping[str, str] = attrs.field(factory=dict)
    against: Mapping[str, str] = attrs.field(factory=dict)
    note: str = ""
    short: Mapping[str, str] = attrs.field(factory=dict)
    failed: Mapping[int, str] = attrs.field(factory=dict)
    facts: Mapping[tuple[str, str], frozenset[str]] = attrs.field(factory=dict)
    costs: Mapping[str, float] = attrs.field(factory=dict)
    alarms: tuple[CountedAlarm, ...] = ()
    recipe: Recipe | None = None
    runs: tuple[FinishedRun, ...] = ()
    judged: Mapping[int, Judged] = attrs.field(factory=dict)
    stopped: StoppedArm | None = None


@attrs.frozen
class Row:
    """One group and its differences.

    Attributes:
        group: the runs.
        mean: of the metric; None without a run.
        deviation: standard deviation over the seeds; None from fewer than two.
        interval: 95% t interval of the mean; None from fewer than two.
        differences: by the reference's title; None without a reference.
        adjusted: the differences' p values after Holm's correction over the column.
        mixed: by the reference's title, whether runs that are not alike are compared.
    """

    group: Group
    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    differences: Mapping[str, Difference | None]
    adjusted: Mapping[str, float | None]
    mixed: Mapping[str, bool] = attrs.field(factory=dict)


@attrs.frozen
class Comparison:
    """The result of :func:`compare_groups`.

    Attributes:
        metric: ``test/accuracy``, say.
        references: titles of the reference groups: ``none``, ``full``.
        columns: settings shown.
        rows: one for each group.
        missing: missing runs, with the reason.
        mixed: what its runs are mixed in, in words; empty where they are alike.
        choices: what groups have chosen for themselves before any of these runs.
    """

    metric: str
    references: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    missing: tuple[Mapping[str, Any], ...] = ()
    mixed: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()

    @property
    def families(self) -> dict[str, int]:
        """By the reference's title, how many comparisons are corrected together."""
        return {title: sum(row.adjusted[title] is not None for row in self.rows) for title in self.references}

    @property
    def stopped(self) -> list[StoppedArm]:
        """What was stopped before."""
        return [row.group.stopped for row in self.rows if row.group.stopped is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, for JSON."""
        return {
            "metric": self.metric,
            "level": LEVEL,
            "power": POWER,
            "references": list(self.references),
            "families": {title: {"correction": "Holm", "comparisons": count} for title, count in self.families.items()},
            "groups": [_to_table(row) for row in self.rows],
            "missing": [dict(item) for item in self.missing],
            "mixed": list(self.mixed),
            "chosen": [{**attrs.asdict(choice), "at_end": choice.ends} for choice in self.choices],
        }


def _to_table(row: Row) -> dict[str, Any]:
    group = row.group
    differences = {
        title: None
        if found is None
        else {**attrs.asdict(found), "p_adjusted": row.adjusted[title], "mixed": row.mixed[title]}
        for title, found in row.differences.items()
    }
    return {
        "name": group.name,
        "note": group.note,
        "settings": dict(group.columns),
        "seeds": sorted(group.values),
        "values": [group.values[seed] for seed in sorted(group.values)],
        "failed": {str(seed): error for seed, error in sorted(group.failed.items())},
        "stopped": None if group.stopped is None else attrs.asdict(group.stopped),
        "mean": row.mean,
        "deviation": row.deviation,
        "interval": None if row.interval is None else list(row.interval),
        "against": dict(group.against),
        "differences": differences,
        "costs": dict(group.costs),
        "alarms": [attrs.asdict(alarm) for alarm in group.alarms],
    }


def compare_groups(
    metric: str,
    groups: Sequence[Group],
    columns: Sequence[str] = (),
    missing: Sequence[Mapping[str, Any]] = (),
    mixed: Sequence[str] = (),
) -> Comparison:
    """Compute means, intervals and differences of ``groups``.

    Groups are paired by the seeds that both have; with fewer than two in common and two runs on each side the
    difference is unpaired. Holm's correction and the detectable difference count the comparisons of a column.

    Args:
        metric: the name of the values.
        groups: in the order of the table.
        columns: the settings to show.
        missing: missing runs.
        mixed: what the runs are mixed in, in words.

    Raises:
        StillhouseError: a value is not finite: that is no value, and its run has failed.
    """
    titles = tuple(dict.fromkeys(title for group in groups for title in group.against))
    by_name = {group.name: group for group in groups}
    found: dict[str, list[Difference | None]] = {}
    adjusted: dict[str, list[float | None]] = {}
    for title in titles:
        pairs = [(group, by_name.get(group.against.get(title, ""))) for group in groups]
        tests = sum(other is not None and group.name != other.name for group, other in pairs)
        found[title] = [None if other is None else _compare(group, other, tests) for group, other in pairs]
        adjusted[title] = holm([None if d is None else d.p for d in found[title]])
    rows = []
    for i, group in enumerate(groups):
        values = np.asarray([group.values[seed] for seed in sorted(group.values)], dtype=np.float64)
        rows.append(
            Row(
                group,
                float(values.mean()) if len(values) else None,
                float(values.std(ddof=1)) if len(values) > 1 else None,
                t_interval(values.tolist()),
                {title: found[title][i] for title in titles},
                {title: adjusted[title][i] for title in titles},
                {title: _is_mixed(group, by_name.get(group.against.get(title, ""))) for title in titles},
            )
        )
    return Comparison(metric, titles, tuple(columns), tuple(rows), tuple(missing), tuple(mixed))


def _is_mixed(group: Group, other: Group | None) -> bool:
    facts = other.facts if other is not None else {}
    return any(
        len(group.facts.get(key, facts.get(key, frozenset())) | facts.get(key, frozenset())) > 1
        for key in {*group.facts, *facts}
    )


def _compare(group: Group, other: Group, tests: int) -> Difference | None:
    if group.name == other.name:
        return None
    common = sorted(group.values.keys() & other.values.keys())
    if len(common) < 2 and min(len(group.values), len(other.values)) >= 2:
        return welch_difference(list(group.values.values()), list(other.values.values()), comparisons=tests)
    if not common:
        return None
    found = paired_difference([group.values[s] for s in common], [other.values[s] for s in common], comparisons=tests)
    return attrs.evolve(found, over_samples=compare_judged(group.judged, other.judged, common))
