"""Draw what the plugins measured inside an experiment's runs: ``python docs/experiments/curves.py vkd-cifar``.

A plan's ``[[curves]]`` say what: ``tag``, a scalar in the runs' TensorBoard files; ``label``, of the axis and the table's column; and, where they are
not all, ``arms``. Run the experiment first. The plot and a table of the last values go into the page, beside the experiment's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

import matplotlib as mpl
from _page import HERE, into_pages
from _plan import PLANS, read
from _tuning import tuned
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import StillhouseError
from stillhouse.experiments.statistics import t_interval

mpl.use("agg")

Curve = dict[int, list[float]]
"""A scalar's values over the seeds, by step."""


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What the run in ``folder`` logged: by tag, its values by step."""
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


def draw(curves: list[dict[str, Any]], found: dict[str, dict[str, Curve]], path: Path) -> None:
    """One panel a curve, one line an arm."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(curves), figsize=(max(6.4, 4.6 * len(curves)), 4.4), layout="constrained", squeeze=False
    )
    colours = {arm: f"C{i % 10}" for i, arm in enumerate(found)}
    for axes, curve in zip(panels[0], curves, strict=True):
        for arm, logged in found.items():
            values = logged.get(curve["tag"])
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
        axes.set(xlabel="step", ylabel=curve["label"])
        if curve.get("log"):
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: line for axes in panels[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
    curves = tomllib.loads((PLANS / f"{name}.toml").read_text(encoding="utf-8"))["curves"]
    folders: dict[str, list[Path]] = {}
    for run in experiment.plan.runs():
        if run.summary() is not None:
            folders.setdefault(run.arm, []).append(run.folder)
    tags = [curve["tag"] for curve in curves]
    found = {arm: measured(paths, tags) for arm, paths in folders.items()}
    draw(curves, found, HERE / "results" / f"{name}-curves.png")
    lines = [
        f"Command: `python docs/experiments/curves.py {name}`, from the same runs. At the last logged step, mean over the "
        "seeds ± half of its 95% interval; the plot's bands are the smallest and the largest of the seeds.",
        "",
        "| arm | " + " | ".join(curve["label"] for curve in curves) + " |",
        "|---" * (len(curves) + 1) + "|",
    ]
    for arm, logged in found.items():
        if logged:
            lines.append(f"| {arm} | " + " | ".join(last(logged[t]) if t in logged else "-" for t in tags) + " |")
    lines += ["", f"![Measured inside the runs, by step](results/{name}-curves.png)"]
    into_pages(f"{name} curves", "\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
