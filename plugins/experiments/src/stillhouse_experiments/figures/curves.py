"""Scalars that plugins logged inside an experiment's runs, by step, with a table of the last values.

A plan's ``[[curves]]`` name them, see :class:`stillhouse_experiments.plan.CurveTable`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import StillhouseError
from stillhouse.experiments.statistics import t_interval
from stillhouse_experiments.drawing import panels, save
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.plan import CurveTable

__all__ = ["Curve", "last", "make", "measured", "scalars"]

Curve = dict[int, list[float]]
"""A scalar's values over the seeds, by step."""


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Everything that the run in ``folder`` logged: by tag, its values by step."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def measured(folders: list[Path], tags: list[str]) -> dict[str, Curve]:
    """Every scalar of ``tags`` that some run logged."""
    found: dict[str, Curve] = {}
    for logged in map(scalars, folders):
        for tag in tags:
            for step, value in logged.get(tag, {}).items():
                found.setdefault(tag, {}).setdefault(step, []).append(value)
    return found


def last(curve: Curve) -> str:
    """The mean over seeds at the last step that all have, with its 95% interval."""
    values = curve[max(curve)]
    interval = t_interval(values)
    half = f" ± {(interval[1] - interval[0]) / 2:.3g}" if interval else ""
    return f"{statistics.mean(values):.3g}{half}"


def draw(curves: Sequence[CurveTable], found: dict[str, dict[str, Curve]], path: Path) -> None:
    """One panel a curve, one line an arm."""
    figure, every = panels(len(curves), max(6.4, 4.6 * len(curves)), 4.4)
    colours = {arm: f"C{i % 10}" for i, arm in enumerate(found)}
    for axes, curve in zip(every, curves, strict=True):
        for arm, logged in found.items():
            values = logged.get(curve.tag)
            if values:
                steps = sorted(values)
                middle = [statistics.mean(values[s]) for s in steps]
                axes.plot(steps, middle, color=colours[arm], label=arm)
                axes.fill_between(
                    steps,
                    [min(values[s]) for s in steps],
                    [max(values[s]) for s in steps],
                    color=colours[arm],
                    alpha=0.12,
                )
        axes.set(xlabel="step", ylabel=curve.label)
        if curve.log:
            axes.set_yscale("log")
    handles = {label: line for axes in every for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small")
    save(figure, path)


def make(request: Request) -> Figure:
    """The table and the picture of one experiment.

    Raises:
        StillhouseError: the plan has no curves.
    """
    name = request.name
    experiment = request.finished()
    curves = experiment.curves
    if not curves:
        raise StillhouseError("it has no [[curves]]", where=str(request.plan))
    folders: dict[str, list[Path]] = {}
    for run in experiment.plan.runs():
        if run.summary() is not None:
            folders.setdefault(run.arm, []).append(run.folder)
    tags = [curve.tag for curve in curves]
    found = {arm: measured(paths, tags) for arm, paths in folders.items()}
    draw(curves, found, request.home.results / f"{name}-curves.png")
    lines = [
        f"Command: `stillhouse experiment {name} --figure curves`, from the same runs. At the last logged step, mean over the "
        "seeds ± half of its 95% interval; the plot's bands are the smallest and the largest of the seeds.",
        "",
        "| arm | " + " | ".join(curve.label for curve in curves) + " |",
        "|---" * (len(curves) + 1) + "|",
    ]
    for arm, logged in found.items():
        if logged:
            lines.append(f"| {arm} | " + " | ".join(last(logged[t]) if t in logged else "-" for t in tags) + " |")
    lines += ["", f"![Measured inside the runs, by step](results/{name}-curves.png)"]
    return Figure(f"{name} curves", lines)
