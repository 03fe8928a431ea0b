"""How many axes the arms of a TCS experiment have, and how much of the variance they hold.

Nothing is trained but the teacher, where it is not there yet: each run is assembled, its axes are looked at, and it ends. Arms
that ask for the same axes of the same images have one row.
"""

from __future__ import annotations

import json
import statistics

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.memo import share_memo
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.teachers import make_axes
from stillhouse_tcs import CoordinateHead

__all__ = ["make"]

ASKED = ("axes", "k", "match", "mimic_on", "layer", "pool")
"""The options that decide which axes there are."""


def looked_at(recipe: Recipe) -> tuple[int, float] | None:
    """The number of axes of the run and the share of the variance that they hold; None of one without a path."""
    training = prepare(recipe, write=False)
    try:
        head = next((m for m in training.run.student.modules() if isinstance(m, CoordinateHead)), None)
        return None if head is None else (len(head.readout.live), float(head.explained))
    finally:
        training.close()


def make(request: Request) -> Figure:
    """The table of one experiment.

    Raises:
        StillhouseError: no arm has axes.
    """
    name = request.name
    experiment = request.experiment()
    alike: dict[str, list[str]] = {}
    found: dict[str, list[tuple[int, float]]] = {}
    make_axes(experiment)
    with share_memo():  # the data are read once for all of them
        for run in experiment.plan.runs():
            options = next((table for table in run.recipe.plugins if table["use"] == "tcs"), None)
            if options is None or options.get("path") == "none":
                continue
            setting = [run.recipe.data.per_class, run.recipe.student.args, run.recipe.teacher]
            asked = json.dumps([{key: options.get(key) for key in ASKED}, setting], default=str)
            names = alike.setdefault(asked, [])
            if run.arm not in names:
                names.append(run.arm)
            if names[0] == run.arm and (seen := looked_at(run.recipe)) is not None:
                found.setdefault(asked, []).append(seen)
    if not found:
        raise StillhouseError("no arm has the plugin tcs with a path", where=str(request.plan))
    lines = [
        f"Command: `stillhouse experiment {name} --figure axes`, over the same seeds.",
        "",
        "| arms | axes | of the variance |",
        "|---|---|---|",
    ]
    for asked, values in found.items():
        counts, shares = zip(*values, strict=True)
        number = f"{min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")
        lines.append(f"| {'; '.join(alike[asked])} | {number} | {statistics.mean(shares):.1%} |")
    return Figure(f"{name} axes", lines)
