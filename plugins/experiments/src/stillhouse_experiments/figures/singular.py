"""Does a projection become low-rank while it is trained? From the runs of the experiment ``cross-start``.

Reads the lines that :class:`~stillhouse_experiments.recipes.singular_values.SingularValues` wrote in them; every arm has the same
weight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse import StillhouseError
from stillhouse.experiments.plan import PlannedRun, read_finished_summary
from stillhouse.experiments.statistics import holm, paired_difference, t_interval
from stillhouse_experiments.drawing import panels, save
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.recipes.observers import effective_rank_of
from stillhouse_experiments.recipes.singular_values import FILE

__all__ = ["collected", "effective_rank", "head", "make", "pair_rows", "row"]

SETTING = "20 pairs: "
SHOWN = {"before": "features before", "map": "P", "projected": "features after P"}
PAIRS = (
    ("inverted", "traditional"),
    ("inverted", "inverted, random teacher"),
    ("traditional", "traditional, random teacher"),
)

Lines = list[dict[str, Any]]
"""A run's lines, by step."""


def effective_rank(values: list[float]) -> float:
    """Of singular values, see :func:`stillhouse_experiments.recipes.observers.effective_rank_of`."""
    return effective_rank_of(torch.tensor(values, dtype=torch.float64)).item()


def head(values: list[float], count: int = 8) -> float:
    """The share of the energy (squares) in the first ``count`` directions."""
    energy = np.square(values)
    return float(energy[:count].sum() / energy.sum())


def collected(runs: list[PlannedRun]) -> dict[str, list[Lines]]:
    """The lines of every run that was watched, by arm."""
    found: dict[str, list[Lines]] = {}
    for run in runs:
        path = run.folder / FILE
        if run.arm.startswith(SETTING) and path.exists() and read_finished_summary(run.folder) is not None:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found.setdefault(run.arm.removeprefix(SETTING), []).append(lines)
    return found


def changes(runs: list[Lines], key: str) -> list[float]:
    """How the effective rank changes from the first line to the last, by seed."""
    return [effective_rank(run[-1][key]) - effective_rank(run[0][key]) for run in runs]


def pair_rows(found: dict[str, list[Lines]]) -> list[str]:
    """The changes of two arms compared, paired by seed, all corrected together."""
    cases = [(a, b, key) for a, b in PAIRS if {a, b} <= found.keys() for key in ("map", "projected")]
    differences = [
        paired_difference(changes(found[a], key), changes(found[b], key), comparisons=len(cases)) for a, b, key in cases
    ]
    rows = ["| change of | arm | less | paired [95%] | detectable |", "|---|---|---|---|---|"]
    for (a, b, key), d, p in zip(cases, differences, holm([d.p for d in differences]), strict=True):
        star = " *" if p is not None and p < 0.05 else ""
        interval = f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else ""
        rows.append(f"| {SHOWN[key]} | {a} | {b} | {d.mean:+.2f}{interval}{star} | {d.detectable or 0.0:.2f} |")
    return [*rows, "", f"*: p < 0.05 after Holm's correction for the {len(cases)} comparisons of this table."]


def row(arm: str, runs: list[Lines], key: str) -> str:
    """Effective rank and head at the start and the end, and the rank's change with its interval over seeds."""
    start, end = ([effective_rank(run[i][key]) for run in runs] for i in (0, -1))
    change = np.asarray(changes(runs, key))
    low, high = t_interval(change.tolist()) or (float("nan"), float("nan"))
    heads = [np.mean([head(run[i][key]) for run in runs]) for i in (0, -1)]
    return (
        f"| {arm} | {SHOWN[key]} | {len(runs[0][0][key])} | {np.mean(start):.1f} | {np.mean(end):.1f} "
        f"| {change.mean():+.2f} [{low:+.2f}, {high:+.2f}] | {heads[0]:.3f} | {heads[1]:.3f} |"
    )


def draw(found: dict[str, list[Lines]], path: Path) -> None:
    """Effective rank through training, and the spectra of P at both ends."""
    figure, axes = panels(3, 11, 3.4)
    for number, (arm, runs) in enumerate(found.items()):
        steps = [line["step"] for line in runs[0]]
        for place, key in ((axes[0], "map"), (axes[1], "projected")):
            place.plot(steps, np.mean([[effective_rank(li[key]) for li in run] for run in runs], axis=0), label=arm)
        for i, style in ((0, ":"), (-1, "-")):
            mean = np.mean([np.asarray(run[i]["map"]) / run[i]["map"][0] for run in runs], axis=0)
            axes[2].semilogy(np.arange(1, len(mean) + 1), mean, style, color=f"C{number}", linewidth=1.2)
    axes[0].set(title="P", xlabel="step", ylabel="effective rank, mean of the seeds")
    axes[1].set(title="features after P", xlabel="step")
    axes[2].set(title="singular values of P / the largest\n(dotted: start, line: end)", xlabel="number")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    for place in axes:
        place.title.set_fontsize("medium")
    save(figure, path)


def make(request: Request) -> Figure:
    """The table, the plot and the numbers of one experiment.

    Raises:
        StillhouseError: no finished run was watched.
    """
    name = request.name
    found = collected(request.experiment().plan.runs())
    if not found:
        hint = f"run it first: stillhouse experiment {name}"
        raise StillhouseError(f"no finished run of {name} has {FILE}", where=str(request.out), hint=hint)
    count = max(len(runs) for runs in found.values())
    lines = [
        f"Command: `stillhouse experiment {name} --figure singular`, on the {count} seeds of each arm with 20 pairs of the experiment "
        "above, batch by batch; uncentred rows, samples x positions. *head*: the share of the energy in the first 8 directions.",
        "",
        "| arm | of what | directions | effective rank, start | end | change [95%] | head, start | end |",
        "|---|---|---|---|---|---|---|---|",
        *(row(arm, runs, key) for arm, runs in found.items() for key in SHOWN),
        "",
        *pair_rows(found),
        "",
        "![Effective rank through training](results/cross-singular.png)",
    ]
    draw(found, request.home.results / "cross-singular.png")
    ranks = {
        arm: {key: [[effective_rank(line[key]) for line in run] for run in runs] for key in SHOWN}
        for arm, runs in found.items()
    }
    (request.home.results / "cross-singular.json").write_text(json.dumps(ranks), encoding="utf-8")
    return Figure("cross-singular", lines)
