"""Terms that pull against each other: the cosine between the gradients of two terms with respect to the student's parameters.

From the runs of an experiment in which an arm has the observer :class:`~stillhouse_experiments.recipes.observers.GradientCosines`
under the name ``angle``: for each pair a row of the table, the run's mean in a map, and a curve by step.
"""

from __future__ import annotations

import statistics
from itertools import chain
from pathlib import Path

from stillhouse import StillhouseError
from stillhouse.experiments.statistics import t_interval
from stillhouse_experiments.drawing import panels, save
from stillhouse_experiments.figures.curves import scalars
from stillhouse_experiments.figures.figure import Figure, Request

__all__ = ["lines_of", "make"]

PREFIX = "plugin/angle/"

Pair = tuple[str, str]
Seeds = list[dict[int, float]]
"""A pair's cosine by step, for each seed."""


def draw(found: dict[Pair, Seeds], path: Path) -> None:
    """The map and the curves."""
    names = list(dict.fromkeys(chain.from_iterable(found)))
    figure, (left, right) = panels(2, 10, 3.8)
    matrix = [[1.0 if a == b else mean(found.get((a, b)) or found[b, a]) for b in names] for a in names]
    image = left.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    left.set_xticks(range(len(names)), names)
    left.set_yticks(range(len(names)), names)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            left.text(
                j,
                i,
                f"{value:+.2f}",
                ha="center",
                va="center",
                fontsize="small",
                color="w" if abs(value) > 0.6 else "k",
            )
    figure.colorbar(image, ax=left, label="cosine, mean over the run")
    for (a, b), seeds in found.items():
        steps = sorted(set.intersection(*(set(values) for values in seeds)))
        right.plot(steps, [statistics.mean(values[s] for values in seeds) for s in steps], label=f"{a}, {b}")
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set(xlabel="step", ylabel="cosine, mean over the seeds")
    right.legend(fontsize="small")
    save(figure, path)


def mean(seeds: Seeds) -> float:
    """Over steps and seeds."""
    return statistics.mean(statistics.mean(values.values()) for values in seeds)


def lines_of(found: dict[Pair, Seeds]) -> list[str]:
    """The table: the mean of the run, of its first and of its last third, over seeds."""
    lines = ["| terms | mean over the run [95%] | first third [95%] | last third [95%] |", "|---|---|---|---|"]
    for (a, b), seeds in found.items():
        columns: list[list[float]] = [[], [], []]
        for values in seeds:
            steps = sorted(values)
            third = max(1, len(steps) // 3)
            for column, part in zip(columns, (steps, steps[:third], steps[-third:]), strict=True):
                column.append(statistics.mean(values[s] for s in part))
        lines.append(f"| {a}, {b} | {' | '.join(map(_told, columns))} |")
    return lines


def _told(values: list[float]) -> str:
    low, high = t_interval(values) or (values[0], values[0])
    return f"{statistics.mean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


def make(request: Request) -> Figure:
    """The table and the picture of one experiment.

    Raises:
        StillhouseError: no run has logged cosines.
    """
    name = request.name
    found: dict[Pair, Seeds] = {}
    arms = []
    for run in request.finished().plan.runs():
        if run.summary() is not None:
            for tag, values in scalars(run.folder).items():
                if tag.startswith(PREFIX):
                    a, b = tag.removeprefix(PREFIX).split("_and_")
                    found.setdefault((a, b), []).append(values)
                    arms.append(run.arm)
    if not found:
        hint = "GradientCosines among an arm's plugins, with name = 'angle'"
        raise StillhouseError(f"no run has logged {PREFIX}*", where=str(request.plan), hint=hint)
    draw(found, request.home.results / f"{name}-angles.png")
    told = " and ".join(repr(arm) for arm in dict.fromkeys(arms))
    lines = [
        f"Command: `stillhouse experiment {name} --figure angles`. The arm {told}, {len(next(iter(found.values())))} seeds.",
        "",
        *lines_of(found),
        "",
        f"![Cosine of the terms' gradients](results/{name}-angles.png)",
    ]
    return Figure(f"{name} angles", lines)
