"""What an experiment's runs come to: tables for its page, a plot, the numbers as JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import matplotlib as mpl
import torch
from _plan import Experiment
from _teacher import probed, teachers_line
from _tuning import Choice

from stillhouse.experiments.ablation import table_of
from stillhouse.experiments.comparison import Comparison, compare_groups
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.statistics import Difference, holm, paired_difference
from stillhouse.experiments.tables import to_markdown

mpl.use("agg")
HERE = Path(__file__).parent

Pair = tuple[str, str, Difference, float | None]
"""Two arms, their difference, and its p value after Holm's correction."""


def compared(experiment: Experiment, failed: dict[int, str]) -> Comparison:
    """The table of all arms against their references."""
    found = table_of(experiment.plan, metric=experiment.metric, failed=failed)
    arms = [*experiment.plan.arms, *(arm for arm, _ in experiment.probes)]
    references = {arm.name: experiment.reference_of(arm) for arm in arms}
    groups = [
        attrs.evolve(group, columns={}, against={experiment.reference: references[group.name]})
        for group in sorted(
            [*(row.group for row in found.rows), *probed(experiment)], key=lambda g: experiment.order.index(g.name)
        )
    ]
    return compare_groups(experiment.metric, groups, (), found.missing)


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


def pair_lines(pairs: list[Pair]) -> list[str]:
    """The table of the pairs; nothing where there are none."""
    if not pairs:
        return []
    rows = [
        f"| {a} | {b} | {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]{' *' if p is not None and p < 0.05 else ''} "
        f"| {d.detectable:.4f} |"
        for a, b, d, p in pairs
    ]
    note = f"*: p < 0.05 after Holm's correction for the {len(pairs)} comparisons of this table."
    return ["| arm | less | paired [95%] | detectable |", "|---|---|---|---|", *rows, "", note, ""]


def choice_lines(choices: list[Choice]) -> list[str]:
    """The table of what was chosen; nothing where nothing was."""
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
    return [*lines, *(choice.line() for choice in choices), ""]


def plot(experiment: Experiment, comparison: Comparison, path: Path) -> None:
    """Paired differences to the reference, with their intervals, one line an arm."""
    import matplotlib.pyplot as plt

    rows = [row for row in comparison.rows if row.differences.get(experiment.reference) is not None]
    if not rows:
        return
    values = {row.group.name: row.group.values for row in comparison.rows}
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.36 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        found = row.differences[experiment.reference]
        assert found is not None
        others = values[row.group.against[experiment.reference]]
        points = [value - others[seed] for seed, value in row.group.values.items() if seed in others]
        axes.plot(points, [place] * len(points), ".", color="0.7", markersize=4, zorder=1)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color="tab:green", linewidth=2, zorder=2)
        axes.plot(found.mean, place, "o", color="tab:green", markersize=6, zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.group.name for row in reversed(rows)])
    label = f"{experiment.metric} less {experiment.reference!r},\npaired by seed; mean and 95% interval"
    axes.set_xlabel(label, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def machine() -> str:
    """What ran."""
    sys.path.insert(0, str(HERE.parents[1] / "tests" / "benchmarks"))
    from _bench import machine as cpu

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, Python {sys.version.split()[0]}, torch {torch.__version__}"
    return cpu().replace("one thread used", "one thread a run")


def write(
    experiment: Experiment,
    comparison: Comparison,
    choices: list[Choice],
    tuning: list[Plan],
    jobs: int,
    command: str,
    *,
    minutes: float | None = None,
    note: str = "",
    to: Path | None = None,
) -> str:
    """The tables into their page, the numbers as JSON, and the plot.

    Args:
        experiment: as it was run.
        comparison: its table.
        choices: what was chosen before.
        tuning: the plans of the runs that chose it.
        jobs: how many ran at a time.
        command: that made it.
        minutes: how long that took by the clock, with all that is around the training; None where that is not known.
        note: what else is to be known of these runs.
        to: the folder of the pages; by default this one.

    Returns:
        What went into the page.
    """
    results = (to or HERE) / "results"
    results.mkdir(exist_ok=True)
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
        *choice_lines(choices),
        to_markdown(comparison),
        *pair_lines(pairs),
    ]
    picture = f"![Differences by arm, paired by seed](results/{experiment.name}.png)"
    text = "\n".join([*lines, picture])
    into_pages(experiment.name, text, to)
    tables: dict[str, Any] = comparison.to_dict()
    tables["pairs"] = [{"arm": a, "less": b, **attrs.asdict(d), "p_adjusted": p} for a, b, d, p in pairs]
    tables["chosen"] = [attrs.asdict(choice) for choice in choices]
    (results / f"{experiment.name}.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    plot(experiment, comparison, results / f"{experiment.name}.png")
    return text


def _spent(plans: list[Plan]) -> str:
    found = [summary for plan in plans for run in plan.runs() if (summary := run.summary()) is not None]
    return f"{len(found)} runs, {sum(summary['seconds'] for summary in found) / 60:.1f} minutes"


def into_pages(name: str, text: str, to: Path | None = None) -> None:
    """Put text where a page has ``<!-- results: NAME -->`` and ``<!-- end -->``."""
    block = re.compile(rf"(<!-- results: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    for page in (to or HERE).glob("*.md"):
        before = page.read_text(encoding="utf-8")
        after = block.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
        if after != before:
            page.write_text(after, encoding="utf-8")
