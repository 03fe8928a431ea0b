"""A student with BatchNorm in two processes against one: test accuracy on the digits, paired by seed.

BatchNorm sees each process's share of a batch, so the two are not the same run; this says how far apart they end.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _bench import report

from stillhouse import Recipe, train
from stillhouse.distributed import processes as parallel

SEEDS = range(10)
QUANTILE = 2.262
"""Of Student's t with 9 degrees of freedom, for 95%."""


def recipe(seed: int) -> Recipe:
    """The digits' student alone, ten images a class, as `make demo` has it; shares of 32 in two processes."""
    tables: dict[str, Any] = {
        "run": {"epochs": 50, "seed": seed, "threads": 1, "device": "cpu", "log_every": 1000},
        "data": {"name": "sklearn:digits", "batch_size": 64, "per_class": 10},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": 16}},
        "optimizer": {"lr": 2e-3},
        "schedule": {"warmup": 0.1, "decay": "cosine"},
    }
    return Recipe.from_dict(tables)


def accuracies() -> list[float]:
    """Test accuracy in percent by seed."""
    return [100 * train(recipe(seed), write=False).metrics["test"]["accuracy"] for seed in SEEDS]


def in_two() -> list[float]:
    """The same in two processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "accuracies.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, __file__, "--worker", str(out)], check=True)
        found: list[float] = json.loads(out.read_text())
    return found


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    if "--worker" in sys.argv:
        found = accuracies()
        if parallel.is_first():
            Path(sys.argv[sys.argv.index("--worker") + 1]).write_text(json.dumps(found))
        parallel.leave(done=True)
        parallel.end(0)
    one, two = accuracies(), in_two()
    apart = [b - a for a, b in zip(one, two, strict=True)]
    half = QUANTILE * statistics.stdev(apart) / math.sqrt(len(apart))
    rows = [
        ("one process, BatchNorm over 64", f"{statistics.mean(one):.2f}"),
        ("two processes, BatchNorm over 32 each", f"{statistics.mean(two):.2f}"),
        ("two less one, paired", f"{statistics.mean(apart):+.2f} ± {half:.2f}"),
    ]
    notes = [f"Test accuracy in percent, mean over seeds 0 to {len(apart) - 1}; the interval is 95%, by Student's t."]
    report("A BatchNorm student in two processes", ["run", "accuracy"], rows, notes)


if __name__ == "__main__":
    main()
