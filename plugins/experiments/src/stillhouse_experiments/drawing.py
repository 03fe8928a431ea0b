"""Drawing without a screen: panels in one look, and the plot of an experiment's differences."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillhouse.experiments.comparison import Comparison
from stillhouse_experiments.experiment import Experiment

__all__ = ["draw_differences", "panel", "panels", "save"]


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure, inches wide and high, with so many panels beside each other."""
    figure = Figure(figsize=(width, height), layout="constrained")
    found = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure, inches wide and high, with one panel."""
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a picture."""
    figure.savefig(path, dpi=110)


def draw_differences(experiment: Experiment, comparison: Comparison, path: Path) -> None:
    """Paired differences to the reference, with their intervals, one line an arm."""
    rows = [row for row in comparison.rows if row.differences.get(experiment.reference) is not None]
    if not rows:
        return
    values = {row.group.name: row.group.values for row in comparison.rows}
    figure, axes = panel(7, 0.7 + 0.36 * len(rows))
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
    save(figure, path)
