"""A step with everything at its default beside one that nobody watches; and one that logs each step beside the default.

A look falls on one step of many, so that it is the whole of a side's processor time that is compared, its looks among it, and
not the median of turns, most of which have none.

Targets: watching at most 1.02 times the time without; ``log_every = 1`` at most 1.15 times the default.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial

import attrs
from _bench import report
from _peer_cases import Case, Made, make_case
from _peer_loops import follow
from _turns import Side, take_turns

from stillhouse.config.run_options import WatchSpec
from stillhouse_experiments.timing import steady_allocator

TARGET, LOG_TARGET = 1.02, 1.15
DEFAULT, UNWATCHED, EACH = "default", "[watch] enabled = false", "log_every = 1"
LOG_EVERY = 50
SIDES = 3
PAIRS = ((DEFAULT, UNWATCHED, TARGET), (EACH, DEFAULT, LOG_TARGET))


@attrs.frozen
class Length:
    """How long a case is trained: turns, and steps in each."""

    turns: int
    steps: int


CASES = {
    "a step of 2 ms": (Case(student=2, teacher=4, size=12, batch=32), Length(12, 200)),
    "a small convnet": (Case(student=16, teacher=32, size=32, batch=32), Length(8, 60)),
}
QUICK = Length(4, 100)
"""With ``--quick``, in place of each: to see that it runs."""
PROCESSES = 3


def train(side: Side, made: Made, length: Length, *, log_every: int = LOG_EVERY, watched: bool = True) -> None:
    """Train a run that is as long as it is trained here: the watcher spreads its looks over it."""
    steps = Side.NOTED + 1 + length.turns * length.steps
    # A side waits while the others have their turns: of the time that it sees pass, this share is its own.
    watch = {"enabled": watched, "budget": WatchSpec().budget / SIDES}
    epoch = made.prepare().run.steps_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        training = made.prepare(log_every, f"{folder}/run", epochs=-(-steps // epoch), watch=watch)
        training._open_folder()
        try:
            follow(side, made, training)
        finally:
            training.observers.close()
            training.close()


def measure(name: str, *, quick: bool) -> list[tuple[float, float]]:
    """In this process: for each of the pairs the milliseconds of a step of the lower side, and the ratio of all steps' time."""
    case, length = CASES[name]
    length = QUICK if quick else length
    steady_allocator()
    made = make_case(case)
    loops = {
        DEFAULT: partial(train, made=made, length=length),
        UNWATCHED: partial(train, made=made, length=length, watched=False),
        EACH: partial(train, made=made, length=length, log_every=1),
    }
    sides = [Side(side, loop, made.batch) for side, loop in loops.items()]
    seconds = take_turns(sides, length.turns, length.steps)
    return [
        (statistics.median(seconds[under]) * 1e3, sum(seconds[over]) / sum(seconds[under])) for over, under, _ in PAIRS
    ]


def collect(name: str, *, quick: bool) -> list[list[tuple[float, float]]]:
    """:func:`measure` in fresh processes: where things lie in memory moves a step's time by more than watching does."""
    command = [sys.executable, "-W", "ignore", __file__, "--once", name, *(["--quick"] if quick else [])]
    found = []
    for _ in range(PROCESSES):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> None:
    """Measure and report."""
    quick = "--quick" in sys.argv
    if "--once" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--once") + 1], quick=quick)))
        return
    rows = []
    for name, (_, length) in CASES.items():
        length = QUICK if quick else length
        found = collect(name, quick=quick)
        for index, (over, under, target) in enumerate(PAIRS):
            step = statistics.median(each[index][0] for each in found)
            ratios = sorted(each[index][1] for each in found)
            whole = statistics.median(ratios)
            rows.append(
                [
                    f"{name}, {length.turns * length.steps:,} of them",
                    f"`{over}`",
                    f"`{under}`, {step:.1f} ms a step",
                    f"x{whole:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
                    f"at most x{target}: {'met' if whole <= target else 'missed'}",
                ]
            )
    report(
        "What watching costs",
        ["step", "side", "over", "processor time of all steps, median (least to greatest)", "target"],
        rows,
        [
            f"Medians of {PROCESSES} fresh processes. Runs of four plugins, with their folder and TensorBoard's events, in turn "
            "in one process; the losses of the first five steps are asserted to agree first. Loading and validation are no "
            "part of it."
        ],
    )


if __name__ == "__main__":
    main()
