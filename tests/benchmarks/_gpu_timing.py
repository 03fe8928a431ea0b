"""One row of the GPU proof: Stillhouse and the loop by hand in turn, on one set of modules, in one process."""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from _gpu_cases import Case, images, recipe
from _plain_loop import PlainLoop, own_loader

from stillhouse import prepare
from stillhouse.data import Batch
from stillhouse.training.compilation import graph_breaks

__all__ = ["Effort", "measure"]

MOST_STEPS = 50
SAME = 2e-3
"""How far apart the losses of the two sides may be at the same weights, of the loss: bfloat16's rounding, or a compiler's."""


@dataclass(frozen=True)
class Effort:
    """How long a row is measured.

    Attributes:
        rounds: turns of both sides; the ratio is their median.
        seconds: about what a side's turn takes; it is 5 to 50 steps.
        least: steps of a turn at least.
        warmup: steps of each side before.
        loader_steps: steps of a turn where a loader gives the batches: many times what it holds ready.
        workers: processes that read, where any do.
    """

    rounds: int = 7
    seconds: float = 1.0
    least: int = 5
    warmup: int = 5
    loader_steps: int = 100
    workers: int = 8


QUICK = Effort(rounds=2, seconds=0.0, least=1, warmup=1, loader_steps=2, workers=1)
"""Shows that everything runs, and measures nothing."""


class Repeat:
    """The same batches again and again."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return itertools.cycle(self.batches)


def measure(case: Case, device: str, effort: Effort) -> dict[str, Any]:
    """The row of ``case``: what was measured, as plain data."""
    began = time.perf_counter()
    training = prepare(recipe(case, device, workers=effort.workers), write=False)
    try:
        row = _row(case, training, effort)
    finally:
        training.close()
        # The run's parts refer to one another: without this the next row starts with this one's memory.
        del training
        gc.collect()
        torch._dynamo.reset()
        if device != "cpu":
            torch.cuda.empty_cache()
    return {**row, "seconds": round(time.perf_counter() - began, 1)}


def _row(case: Case, training: Any, effort: Effort) -> dict[str, Any]:
    found: dict[str, Any] = {}
    training.run.composition.train()
    device = training.run.device
    batches = [_batch(case, device, seed) for seed in (0, 1)]
    step = PlainLoop(training)
    # Compiled modules have the hooks in them that they had when they were compiled: both sides' are on in both sides' turns.
    compiled_alike = case.kind == "compile"
    if compiled_alike:
        step.attach()
    if "compile" in case.speed:
        found |= _compiled(training, batches[0])
    trainer = training.run.trainer
    # Evaluation is no part of this: it finds no split to measure.
    training.observers.evaluation._data = SimpleNamespace(splits=())
    with nullcontext() if compiled_alike else step.alone():
        expected = float(step.loss(batches[0]))
    trainer.run(Repeat(batches), max_epochs=1, epoch_length=1)
    found["loss"] = {"hand": expected, "stillhouse": float(trainer.state.output)}
    if not math.isclose(*found["loss"].values(), rel_tol=SAME):
        raise ValueError(f"the losses differ: by hand {expected}, Stillhouse {float(trainer.state.output)}")
    theirs: Any = Repeat(batches)
    own: Iterator[Any] = iter(Repeat(batches))
    if case.loader:
        theirs = training.data.training()
        given = images(200 * case.pair.batch, case.pair.size)["train"]
        own = own_loader(
            given, case.pair.batch, effort.workers if case.loader == "workers" else 0, device.type == "cuda"
        )

    def stillhouse(steps: int) -> None:
        training.observers.scalars.periods = [steps // 2 + 1]  # one look at the losses, in the middle of a turn
        trainer.run(theirs, max_epochs=1, epoch_length=steps)

    def hand(steps: int) -> None:
        with nullcontext() if compiled_alike else step.alone():
            for _ in range(steps):
                step(next(own))

    return {**found, **_compare({"hand": hand, "stillhouse": stillhouse}, case, device, effort)}


def _batch(case: Case, device: torch.device, seed: int) -> Batch:
    """A batch that lies on the device; the ids stay on the CPU, where the engine has them."""
    generator = torch.Generator().manual_seed(seed)
    n, size = case.pair.batch, case.pair.size
    x = torch.rand(n, 3, size, size, generator=generator)
    return Batch(x.to(device), torch.randint(0, 100, (n,), generator=generator).to(device), torch.arange(n))


def _compiled(training: Any, batch: Batch) -> dict[str, Any]:
    """Count graph breaks of what is compiled, hooks included, then compile."""
    run, speed = training.run, training.recipe.speed
    precision = getattr(torch, training.recipe.run.precision)
    breaks: dict[str, list[str]] = {}
    x = batch.input
    if speed.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for which, model in (("student", run.student), ("teacher", run.teacher)):
        if speed.compiles(which):
            with torch.autocast(run.device.type, dtype=precision), torch.set_grad_enabled(which == "student"):
                breaks[which] = graph_breaks(model, x)
    for model in run.composition.models.values():
        model.taps.take()
    torch._dynamo.reset()
    start = time.perf_counter()
    training._compile()
    return {"graph_breaks": breaks, "compile_seconds": round(time.perf_counter() - start, 1)}


def _compare(
    sides: dict[str, Callable[[int], None]], case: Case, device: torch.device, effort: Effort
) -> dict[str, Any]:
    def timed(side: str, steps: int) -> float:
        _wait(device)
        start = time.perf_counter()
        sides[side](steps)
        _wait(device)
        return time.perf_counter() - start

    for side in sides:
        sides[side](effort.warmup)
    steps = effort.loader_steps
    if not case.loader:
        one = max(timed(side, effort.least) / effort.least for side in sides)
        steps = max(effort.least, min(MOST_STEPS, round(effort.seconds / one)))
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    peaks = dict.fromkeys(sides, 0)
    order = list(sides)
    shuffle = random.Random(0).shuffle
    for _ in range(effort.rounds):
        shuffle(order)
        for side in order:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds[side].append(timed(side, steps) / steps)
            if device.type == "cuda":
                peaks[side] = max(peaks[side], torch.cuda.max_memory_allocated(device))
    ratios = sorted(h / s for h, s in zip(seconds["hand"], seconds["stillhouse"], strict=True))
    return {
        "batch": case.pair.batch,
        "steps": steps,
        "ms": {side: statistics.median(values) * 1e3 for side, values in seconds.items()},
        "images_per_second": {side: case.pair.batch / statistics.median(values) for side, values in seconds.items()},
        "ratio": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1], "rounds": len(ratios)},
        "peak_bytes": peaks if device.type == "cuda" else None,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
