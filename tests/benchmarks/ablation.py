"""Ablations of short runs: what a further run costs beside its training, and two jobs beside one."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _bench import report
from _commands import Ended, run_python

TURNS = 3
MOST_BESIDE = 0.1
"""Seconds of processor time that a further run may cost beside its steps and its epochs."""
SHORT, LONGER = 20, 60
"""Steps of a run; three epochs of 20 steps cost three times the epoch of one, and as much besides."""
RECIPE = """
[run]
name = "ablation"
epochs = {epochs}
device = "cpu"
threads = 1

[data]
name = "sklearn:digits"
batch_size = 32
limit = 640

[student]
model = "convnet"
args = {{ width = {width} }}

[teacher]
model = "convnet"
args = {{ width = 16 }}
random = true

[[plugins]]
use = "logits"
"""


def ablate(folder: Path, name: str, seeds: int, jobs: int) -> Ended:
    """Train the runs of two arms under ``seeds`` seeds from the command line; nothing of them is kept."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        words = ["--seeds", str(seeds), "--leave-one-out", "--jobs", str(jobs), "--out", out, "--json", "--quiet"]
        ended = run_python("-m", "stillhouse", "ablate", f"{name}.toml", *words, folder=folder)
    assert sum(len(group["seeds"]) for group in json.loads(ended.output)["groups"]) == 2 * seeds
    return ended


def measure(folder: Path) -> dict[tuple[str, int, int], list[Ended]]:
    """The ablations by recipe, runs and jobs, interleaved."""
    for name, epochs, width in (("short", 1, 8), ("longer", LONGER // SHORT, 8), ("seconds", 4, 48)):
        (folder / f"{name}.toml").write_text(RECIPE.format(epochs=epochs, width=width))
    cases = [("short", 4, 1), ("short", 4, 2), ("short", 16, 1), ("longer", 4, 1), ("longer", 16, 1)]
    found: dict[tuple[str, int, int], list[Ended]] = {}
    for turn in range(TURNS):
        for case in [*cases, *([("seconds", 16, 1), ("seconds", 16, 2)] if turn == 0 else [])]:
            name, runs, jobs = case
            found.setdefault(case, []).append(ablate(folder, name, runs // 2, jobs))
    return found


def further_run(found: dict[tuple[str, int, int], list[Ended]], name: str) -> list[float]:
    """Seconds of processor time of one more run, turn by turn: the twelve that 16 have over 4."""
    pairs = zip(found[name, 16, 1], found[name, 4, 1], strict=True)
    return [(many.processor - few.processor) / 12 for many, few in pairs]


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    rows = [
        (
            f"{runs} runs of {'20 steps' if name == 'short' else '60 steps' if name == 'longer' else '80 steps, a wider student'}",
            jobs,
            _middle([ended.processor for ended in every]),
            _middle([ended.wall for ended in every]),
        )
        for (name, runs, jobs), every in sorted(found.items(), key=lambda item: (item[0][1], item[0][0], item[0][2]))
    ]
    short, longer = further_run(found, "short"), further_run(found, "longer")
    # The epochs of 20 steps, with their measuring and their checkpoints, are the run's training.
    beside = [mine - (more - mine) / (LONGER // SHORT - 1) for mine, more in zip(short, longer, strict=True)]
    report(
        "Ablations of short runs",
        ("ablation", "jobs", "processor time", "wall clock"),
        rows,
        [
            f"Whole commands, digits, one thread a run; {TURNS} turns, interleaved, medians (runs of 80 steps: once). A further run of 20",
            f"steps takes {_middle(short)} of processor time, one of 60 steps {_middle(longer)}; so that what it takes beside its epochs is",
            f"{_middle(beside)} (target: at most {MOST_BESIDE} s): reading its subset of the data, building and rehearsing it, its folder and its",
            "end, the test split's measurement among it.",
            "",
            "Two jobs are never to take longer than one on a machine with two cores that are free. Wall clock says so where nothing",
            "else runs; processor time is what the second worker adds.",
        ],
    )


def _middle(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s"


if __name__ == "__main__":
    main()
