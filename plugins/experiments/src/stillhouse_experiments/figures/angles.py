"""Which terms pull against each other: ``python docs/experiments/angles.py composition-tuned``.

From the runs of an experiment in which an arm has the observer ``observing:GradientCosines`` under the name ``angle``: the
cosine between the gradients of two terms with respect to the student's parameters, for each pair, as a table, a map of the
run's mean, and by step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from itertools import chain
from pathlib import Path

import matplotlib as mpl
from _page import HERE, into_pages
from _plan import read
from _tuning import tuned
from curves import scalars

from stillhouse import StillhouseError
from stillhouse.experiments.statistics import t_interval

mpl.use("agg")
PREFIX = "plugin/angle/"

Pair = tuple[str, str]
Seeds = list[dict[int, float]]
"""A pair's cosine by step, for each seed."""


def draw(found: dict[Pair, Seeds], path: Path) -> None:
    """The map and the curves."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(chain.from_iterable(found)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
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
    right.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


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


def main() -> int:
    """Read, draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="an experiment")
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where its runs are")
    arguments = parser.parse_args()
    name = arguments.name
    try:
        experiment, _, _ = tuned(read(name, arguments.out, None, []), jobs=1)
    except StillhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found: dict[Pair, Seeds] = {}
    arms = []
    for run in experiment.plan.runs():
        if run.summary() is not None:
            for tag, values in scalars(run.folder).items():
                if tag.startswith(PREFIX):
                    a, b = tag.removeprefix(PREFIX).split("_and_")
                    found.setdefault((a, b), []).append(values)
                    arms.append(run.arm)
    draw(found, HERE / "results" / f"{name}-angles.png")
    lines = [
        f"Command: `python docs/experiments/angles.py {name}`. The arm {' and '.join(repr(arm) for arm in dict.fromkeys(arms))}, "
        f"{len(next(iter(found.values())))} seeds.",
        "",
        *lines_of(found),
        "",
        f"![Cosine of the terms' gradients](results/{name}-angles.png)",
    ]
    into_pages(f"{name} angles", "\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
