"""The engine's own time per iteration, five plugins active: over bare ignite that calls the same plugins' functions by hand.

What the product costs beside a loop of plain torch is another page's: ``peers.py``. Here both sides run the same kernels in
the same order on the same data, so that the difference is the engine's: events, hooks, the sealed step.

Targets: at most 30 microseconds a step; the checks of a run's first two steps under 1% of 100 steps.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _bench import interleaved, report
from ignite.engine import Engine, Events

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import FIVE, recipe
from support.by_hand import by_hand

from stillhouse import Recipe, prepare
from stillhouse.assembly.watch import watch_first_steps
from stillhouse.data import Batch
from stillhouse.loop.gradients import make_zero_grad

PROCESSES = 5
TARGET = 30


class Repeat:
    """The same batch again and again, so that loading is no part of what is timed."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Any:
        while True:
            yield self.batch


def runner(engine: Engine, batch: Batch, iterations: int) -> Callable[[], None]:
    """``iterations`` iterations of an engine."""

    def go() -> None:
        engine.run(Repeat(batch), max_epochs=1, epoch_length=iterations)

    return go


def pair(
    made: Recipe, student_layer: str, teacher_layer: str, rank: int, iterations: int
) -> dict[str, Callable[[], None]]:
    """Bare ignite, the same without torch's profiler range around ``zero_grad``, and Stillhouse, on the same batch."""
    training = prepare(made, write=False)
    training.run.student.train()
    batch = next(iter(training.data.training()))
    hand = by_hand(training, student_layer, teacher_layer, rank)
    spared = by_hand(training, student_layer, teacher_layer, rank, make_zero_grad(training.optimizer))
    return {
        "bare ignite": runner(Engine(hand), batch, iterations),
        "spared": runner(Engine(spared), batch, iterations),
        "Stillhouse": runner(bare_trainer(training), batch, iterations),
    }


def bare_trainer(training: Any) -> Engine:
    """Stillhouse's trainer, its logging included, without the evaluation at an epoch's end."""
    training.observers.evaluation._data = SimpleNamespace(splits=())  # evaluation is no part of this
    return training.run.trainer


def small_cnn() -> Recipe:
    """A convnet of width 32 on digits resized to 32x32, batches of 32: a step far above 5 ms."""
    return Recipe.from_dict(
        {
            "run": {"device": "cpu"},
            "data": {"name": "sklearn:digits", "batch_size": 32, "size": 32},
            "student": {"model": "stillhouse.models:convnet", "args": {"width": 16}},
            "teacher": {"model": "stillhouse.models:convnet", "args": {"width": 32}, "random": True},
            "plugins": [
                {"use": "features", "links": [{"student": "stage3", "teacher": "stage3"}]},
                FIVE["normalizer"],
                FIVE["projector"],
                {"use": "spectral", "layer": "stage3", "rank": 8},
                FIVE["logits"],
            ],
        }
    )


def tiny_recipe() -> Recipe:
    """TinyNet on 6x6 images, batches of 8, an epoch of 500 steps, nothing logged and looked at on the way."""
    return recipe(*FIVE.values(), data__args={"train": 4000}, run__log_every=1000, watch={"enabled": False})


def cost_of_a_look() -> float:
    """Microseconds that it takes to read and check the scalars of a step, the plugins' own among them."""
    training = prepare(tiny_recipe(), write=False)
    training.run.student.train()
    trainer = bare_trainer(training)
    seen: list[float] = []
    calls = training.walk.hooks.calls("scalars")

    def look(engine: Engine) -> None:
        start = time.perf_counter()
        training.observers.scalars.read(training.run, engine.state.step, calls)
        seen.append(time.perf_counter() - start)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run(Repeat(next(iter(training.data.training()))), max_epochs=1, epoch_length=200)
    return statistics.median(seen) * 1e6


def cost_of_first_checks(made: Recipe, turns: int) -> tuple[float, float]:
    """Milliseconds that the checks of the first two steps take in all, and milliseconds of a step."""
    training = prepare(made, write=False)
    run, trainer = training.run, bare_trainer(training)
    run.composition.train()
    stamps: list[float] = []
    for event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
        trainer.add_event_handler(event, lambda: stamps.append(time.process_time()))
    batch = Repeat(next(iter(training.data.training())))
    trainer.run(batch, max_epochs=1, epoch_length=20)
    extra, plain = [], []
    for _ in range(turns):
        spent = []
        for checks in (watch_first_steps(run.composition), nullcontext()):
            stamps.clear()
            with checks:
                trainer.run(batch, max_epochs=1, epoch_length=4)
            steps = [after - before for before, after in zip(stamps[::2], stamps[1::2], strict=True)]
            spent.append(sum(steps[:3]))  # the third puts the plain hooks back
            plain.append(steps[3])
        extra.append(spent[0] - spent[1])
    return statistics.median(extra) * 1e3, statistics.median(plain) * 1e3


def extra_microseconds() -> tuple[float, float, float]:
    """Medians over turns, in this process: what Stillhouse's step takes beyond bare ignite's, beyond one that clears
    gradients as Stillhouse does, and what bare ignite's takes.
    """
    turns, iterations = 60, 100
    seconds = interleaved(pair(tiny_recipe(), "body", "body", 2, iterations), repeats=turns)

    def beyond(other: str) -> float:
        both = zip(seconds[other], seconds["Stillhouse"], strict=True)
        return statistics.median((ours - theirs) / iterations * 1e6 for theirs, ours in both)

    return beyond("bare ignite"), beyond("spared"), statistics.median(seconds["bare ignite"]) / iterations * 1e6


def _all(values: list[float]) -> str:
    return f"{statistics.median(values):+.1f} us (" + ", ".join(f"{x:.1f}" for x in values) + ")"


def _verdict(values: list[float]) -> str:
    return f"at most {TARGET} us: {'met' if statistics.median(values) <= TARGET else 'missed'}"


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    if "--once" in sys.argv:
        print(*extra_microseconds(), *cost_of_first_checks(tiny_recipe(), 60), *cost_of_first_checks(small_cnn(), 12))
        return
    # Where things lie in memory differs from process to process, and moves the figure by as much as it is off: all
    # processes count, and all are shown.
    once = [sys.executable, __file__, "--once"]
    texts = [subprocess.run(once, capture_output=True, text=True, check=True).stdout for _ in range(PROCESSES)]
    found = [[*map(float, text.split())] for text in texts]
    extra, spared, bare = (sorted(row[column] for row in found) for column in range(3))
    rows = [
        [
            "tiny step, 5 plugins",
            f"bare ignite, {statistics.median(bare):.0f} us a step",
            _all(extra),
            _verdict(extra),
        ],
        ["the same", "the same, clearing gradients as Stillhouse does", _all(spared), _verdict(spared)],
    ]
    look = cost_of_a_look()
    for name, column in (("tiny", 3), ("small CNN's", 5)):
        shares = sorted(row[column] / row[column + 1] for row in found)  # in percent of 100 steps
        step = statistics.median(row[column + 1] for row in found)
        rows.append(
            [
                f"checks of the first two steps, {name}",
                f"100 steps of {step:.1f} ms",
                f"{statistics.median(shares):.2f}% ({shares[0]:.2f} to {shares[-1]:.2f})",
                f"under 1%: {'met' if statistics.median(shares) < 1 else 'missed'}",
            ]
        )
    report(
        "Overhead of the engine",
        ["what", "the other side", "Stillhouse over it: median (all processes, or least to greatest)", "target"],
        rows,
        [
            "Not in these figures: a look at the losses, every 50 steps by default, which copies all scalars to the host "
            f"once: {look:.0f} us each here, {look / 50:.1f} us a step.",
            "The extra time is Python's and grows with the step's when the processor is slow or shared: the two stand side by "
            "side.",
            "Stillhouse lets go of the gradients itself: around torch's zero_grad there is a profiler's range, which costs more "
            "than the hooks of five plugins. Against a loop that spares it too, the second row is what the engine itself adds.",
            f"All are medians of {PROCESSES} fresh processes, each the median of 60 turns of 100 steps a side; of the checks, of 60 "
            "turns, or 12 of the small CNN.",
        ],
    )


if __name__ == "__main__":
    main()
