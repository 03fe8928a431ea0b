"""An experiment's part of a page: tables of its runs, a plot, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from stillhouse.experiments.choice import END, Choice, tell_ends
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.experiments.report import write_report
from stillhouse.experiments.statistics import Difference, holm, paired_difference
from stillhouse.experiments.tables import NOTHING, format_detectable, format_difference, to_markdown
from stillhouse_experiments.drawing import draw_differences
from stillhouse_experiments.ends import COLUMN, shorten
from stillhouse_experiments.experiment import Experiment
from stillhouse_experiments.home import Home
from stillhouse_experiments.machine import machine
from stillhouse_experiments.teachers import probed, teachers_line

__all__ = ["PICTURE", "arranged", "compared", "compared_pairs", "ends_of_arms", "pair_lines", "table_lines", "write"]

PICTURE = "Differences by arm, paired by seed"
"""What the picture below the tables is called."""
_MARKED = f"A statement that stands on such an arm has the mark {END} as well."
"""Held by the marks of :mod:`stillhouse_experiments.sentences`."""
Pair = tuple[str, str, Difference, float | None]
"""Two arms, their difference, and its p value after Holm's correction."""


def compared(experiment: Experiment, failed: dict[int, str], choices: Sequence[Choice] = ()) -> Comparison:
    """The table of all arms against their references, with a column of what was chosen at the end of what was tried where anything was."""
    # The page says what it is mixed in: an experiment may be run in parts, on several machines.
    found = make_comparison(experiment.plan, metric=experiment.metric, failed=failed, mixed=True)
    groups = sorted(
        [*(row.group for row in found.rows), *probed(experiment)], key=lambda g: experiment.order.index(g.name)
    )
    return arranged(experiment, groups, choices, found.missing, found.mixed)


def arranged(
    experiment: Experiment,
    groups: Sequence[Group],
    choices: Sequence[Choice],
    missing: Sequence[Mapping[str, Any]],
    mixed: Sequence[str],
) -> Comparison:
    """The table of groups that are there: each against the reference of its setting."""
    arms = [*experiment.plan.arms, *(arm for arm, _ in experiment.probes)]
    references = {arm.name: experiment.reference_of(arm) for arm in arms}
    ends = ends_of_arms(experiment, choices)
    columns = (COLUMN,) if any(ends.values()) else ()
    made = [
        attrs.evolve(
            group,
            columns={column: ", ".join(map(shorten, ends.get(group.name, ()))) or NOTHING for column in columns},
            against={experiment.reference: references[group.name]},
        )
        for group in groups
    ]
    return compare_groups(experiment.metric, made, columns, missing, mixed)


def ends_of_arms(experiment: Experiment, choices: Sequence[Choice]) -> dict[str, list[str]]:
    """The keys of each arm's settings that were chosen at the end of what was tried, by the arm itself or on its reference for all."""
    shared = {choice.arm: list(choice.ends) for choice in choices if choice.shared}
    own = {choice.arm: list(choice.ends) for choice in choices if not choice.shared}
    return {
        arm.name: [*own.get(arm.name, []), *shared.get(experiment.reference_of(arm), [])]
        for arm in experiment.plan.arms
    }


def compared_pairs(experiment: Experiment, comparison: Comparison) -> list[Pair]:
    """The plan's further pairs, those of which both arms have run."""
    values = {row.group.name: row.group.values for row in comparison.rows}
    found = []
    for first, second in experiment.pairs:
        seeds = sorted(values[first].keys() & values[second].keys())
        if len(seeds) > 1:
            a, b = [values[first][s] for s in seeds], [values[second][s] for s in seeds]
            found.append((first, second, paired_difference(a, b, comparisons=len(experiment.pairs))))
    adjusted = holm([difference.p for _, _, difference in found])
    return [(a, b, difference, p) for (a, b, difference), p in zip(found, adjusted, strict=True)]


def pair_lines(pairs: list[Pair], ends: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The table of the pairs, arms with such a value marked; nothing where there are none."""
    if not pairs:
        return []

    def mark(name: str) -> str:
        return f"{name} {END}" if (ends or {}).get(name) else name

    rows = [f"| {mark(a)} | {mark(b)} | {format_difference(d, p)} | {format_detectable(d)} |" for a, b, d, p in pairs]
    note = f"*: p < 0.05 after Holm's correction for the {len(pairs)} comparisons of this table."
    note += " e: tested by flipping signs." if any(d.test == "sign-flip" for _, _, d, _ in pairs) else ""
    return ["| arm | less | paired [95%] | detectable |", "|---|---|---|---|", *rows, "", note, ""]


def choice_lines(choices: list[Choice]) -> list[str]:
    """The table of the chosen values; nothing where none were."""
    if not choices:
        return []
    seeds = ", ".join(map(str, choices[0].seeds))
    lines = [
        f"Chosen before, by the mean of `{choices[0].metric}` over the seeds {seeds}, which are not reported; these runs "
        "did not measure the test split:",
        "",
        "| arm | option | tried | chosen |",
        "|---|---|---|---|",
    ]
    for choice in choices:
        keys = ", ".join(f"`{key}`" for key in choice.tell_keys())
        lines.append(f"| {choice.tell_arm()} | {keys} | {choice.tell_tried()} | {', '.join(choice.tell_values())} |")
    told = tell_ends(choices, of_statements=_MARKED)
    return [*lines, "", *([told, ""] if told else [])]


def table_lines(experiment: Experiment, comparison: Comparison, choices: list[Choice]) -> list[str]:
    """What was chosen, the table and that of the pairs: all that follows from an experiment's numbers."""
    pairs = compared_pairs(experiment, comparison)
    ends = ends_of_arms(experiment, choices)
    return [*choice_lines(choices), to_markdown(_timeless(comparison)), *pair_lines(pairs, ends)]


def _timeless(comparison: Comparison) -> Comparison:
    """Without costs and alarms: they are a shared machine's, would be other ones at each run, and stand in the report."""
    rows = [attrs.evolve(row, group=attrs.evolve(row.group, costs={}, alarms=())) for row in comparison.rows]
    return attrs.evolve(comparison, rows=tuple(rows))


def write(
    home: Home,
    experiment: Experiment,
    comparison: Comparison,
    choices: list[Choice],
    tuning: list[Plan],
    jobs: int,
    command: str,
    *,
    minutes: float | None = None,
    note: str = "",
) -> str:
    """The tables into their page, the numbers as JSON, the plot, and a report into the runs' folder.

    Args:
        home: of pages and results.
        experiment: as it was run.
        comparison: its table.
        choices: the values chosen before.
        tuning: the plans of the runs that chose it.
        jobs: how many ran at a time.
        command: that made it.
        minutes: how long that took by the clock, with all that is around the training; None where that is not known.
        note: anything else to be known of these runs.

    Returns:
        The text that went into the page.
    """
    seeds, pairs = experiment.plan.seeds, compared_pairs(experiment, comparison)
    told = f"{_spent([experiment.plan])} of training in all"
    if tuning:
        told += f", and {_spent(tuning)} to choose values"
    told += f", {jobs} at a time"
    if minutes is not None:
        told += f": {minutes:.1f} minutes by the clock, with all that is around it"
    lines = [
        f"### {experiment.title}",
        "",
        f"Command: `{command}`. Seeds {seeds[0]} to {seeds[-1]}. Machine: {machine()}. {told}.{note and f' {note}'}",
        "",
        *([about, ""] if (about := teachers_line(experiment)) else []),
        *table_lines(experiment, comparison, choices),
    ]
    text = "\n".join([*lines, f"![{PICTURE}](results/{experiment.name}.png)"])
    home.put(experiment.name, text)
    tables: dict[str, Any] = comparison.to_dict()
    tables["pairs"] = [{"arm": a, "less": b, **attrs.asdict(d), "p_adjusted": p} for a, b, d, p in pairs]
    tables["chosen"] = [attrs.asdict(choice) for choice in choices]
    (home.results / f"{experiment.name}.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    draw_differences(experiment, comparison, home.results / f"{experiment.name}.png")
    write_report(experiment.plan.folder, attrs.evolve(comparison, choices=tuple(choices)), command)
    return text


def _spent(plans: list[Plan]) -> str:
    found = [summary for plan in plans for run in plan.runs() if (summary := run.summary()) is not None]
    return f"{len(found)} runs, {sum(summary['seconds'] for summary in found) / 60:.1f} minutes"
