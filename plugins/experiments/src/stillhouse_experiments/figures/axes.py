"""How many axes the arms of a TCS experiment have, and what they hold: ``python docs/experiments/axes.py tcs-digits``.

Nothing is trained but the teacher, where it is not there yet: each run is assembled, its axes are looked at, and it ends. Arms
that ask for the same axes of the same images have one row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from _page import into_pages
from _plan import read
from _teacher import make_axes

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.memo import keeping
from stillhouse_tcs import CoordinateHead

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


def main() -> int:
    """Look and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="an experiment")
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where its runs are")
    parser.add_argument("--seeds", type=int, help="instead of the plan's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    alike: dict[str, list[str]] = {}
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        experiment = read(arguments.name, arguments.out, arguments.seeds, [])
        make_axes(experiment)
        with keeping():  # the data are read once for all of them
            for run in experiment.plan.runs():
                (options,) = [t for t in run.recipe.plugins if t["use"] == "tcs"] or [None]
                if options is None or options.get("path") == "none":
                    continue
                setting = [run.recipe.data.per_class, run.recipe.student.args, run.recipe.teacher]
                asked = json.dumps([{name: options.get(name) for name in ASKED}, setting], default=str)
                names = alike.setdefault(asked, [])
                if run.arm not in names:
                    names.append(run.arm)
                if names[0] == run.arm and (seen := looked_at(run.recipe)) is not None:
                    found.setdefault(asked, []).append(seen)
    except StillhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = [
        f"Command: `python docs/experiments/axes.py {arguments.name}`, over the same seeds.",
        "",
        "| arms | axes | of the variance |",
        "|---|---|---|",
    ]
    for asked, values in found.items():
        counts, shares = zip(*values, strict=True)
        number = f"{min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")
        lines.append(f"| {'; '.join(alike[asked])} | {number} | {statistics.mean(shares):.1%} |")
    into_pages(f"{arguments.name} axes", "\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
