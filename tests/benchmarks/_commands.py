"""Whole processes: what a command takes from its start to its end, in processor time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import attrs
import numpy as np
from PIL import Image

__all__ = ["Ended", "run_python", "write_photographs"]


@attrs.frozen
class Ended:
    """A process that has ended.

    Attributes:
        processor: its seconds of processor time, its children's among them.
        wall: seconds from its start to its end.
        output: what it printed.
    """

    processor: float
    wall: float
    output: str


def run_python(*words: str, folder: Path) -> Ended:
    """Run Python with the arguments ``words`` in ``folder``, one thread a library; teachers are kept in there too.

    Raises:
        RuntimeError: it has failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STILLHOUSE_CACHE": str(folder / "cache")}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(processor, wall, done.stdout)


def write_photographs(folder: Path, *, train: int, val: int, classes: int = 2, side: int = 48) -> None:
    """Write JPEGs of blurred noise, each class with a brightness of its own, as a folder of classes for each split."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            place = folder / split / f"class-{i % classes}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = generator.integers(0, 160, (side // 4, side // 4, 3)) + 96 * (i % classes) // classes
            image = Image.fromarray(coarse.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            image.save(place / f"{i}.jpg", quality=90)
