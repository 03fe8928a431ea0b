"""What pictures take of a run on the digits, and how large what TensorBoard reads is."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from _bench import report
from _commands import run_python

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
LENGTHS = (20, 200)
PAIRS = 3
TARGET, MOST_MB = 0.02, 5.0

TIMED = """
import json, sys, time
from stillhouse.training.tensorboard import TensorBoard
spent, begun = {"before": 0.0, "end": 0.0}, time.process_time()

def timed(function, where):
    def call(self, run):
        started = time.process_time()
        function(self, run)
        at_end = where == "end" or run.trainer.state.epoch >= run.epochs
        spent["end" if at_end else "before"] += time.process_time() - started
    return call

TensorBoard._draw = timed(TensorBoard._draw, "draw")
TensorBoard._show = timed(TensorBoard._show, "end")
from stillhouse.cli import main
assert main(sys.argv[1:]) == 0
print(json.dumps({**spent, "whole": time.process_time() - begun}))
"""


def measure(epochs: int, folder: Path) -> dict[str, float]:
    """One run in a process of its own: seconds of processor time in pictures and in all, and the size of what is written."""
    out = folder / f"run-{len(list(folder.iterdir()))}"
    words = ["train", str(RECIPES / "digits-vkd.toml"), "--set", f"run.epochs={epochs}", "--out", str(out), "--quiet"]
    found: dict[str, float] = json.loads(run_python("-c", TIMED, *words, folder=folder).output.splitlines()[-1])
    files = (file for file in (out / "tensorboard").rglob("*") if file.is_file())
    return {**found, "megabytes": sum(file.stat().st_size for file in files) / 1e6}


def main() -> None:
    """Measure and report."""
    rows = []
    with tempfile.TemporaryDirectory() as made:
        measure(1, Path(made))  # the teacher is trained here, once
        for epochs in LENGTHS if "--quick" not in sys.argv else LENGTHS[:1]:
            runs = [measure(epochs, Path(made)) for _ in range(PAIRS)]
            median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            share = median["before"] / median["whole"]
            rows.append(
                [
                    f"{epochs} epochs, {median['whole']:.1f} s",
                    f"{share:.1%}, {'met' if share <= TARGET else 'missed'}",
                    f"{median['end']:.2f} s",
                    f"{median['megabytes']:.2f} MB, {'met' if median['megabytes'] <= MOST_MB else 'missed'}",
                ]
            )
    report(
        "What pictures take",
        [
            "run",
            f"pictures before its end (target: at most {TARGET:.0%})",
            "pictures at its end",
            f"events and projector's files (target: at most {MOST_MB:.0f} MB)",
        ],
        rows,
        [
            f"Medians of {PAIRS} runs of `docs/recipes/digits-vkd.toml`, each in a process of its own, in processor time from the "
            "command's start to its end, the import of torch among it. matplotlib's own import is among the pictures."
        ],
    )


if __name__ == "__main__":
    main()
