"""The fixed cost of an epoch and of a log line: runs of one-step epochs beside a bare loop that does the same tensor work.

Both sides train on 64 samples and measure 64 after each step; Stillhouse writes its folder as always, with checkpoints,
TensorBoard and the history. What both cost once (a folder, the first and the last checkpoint) is taken off: an epoch's price is
the difference of a long and a short run.

Targets: at most 3.5 ms of processor time an epoch beyond the bare loop; ``log_every = 1`` at most 1.2 times the default.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _bench import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import recipe, tiny_data

from stillhouse import prepare

SHORT, LONG = 10, 130
TURNS = 9
FEW, MANY = 200, 1000
TARGET, LOG_TARGET = 3.5, 1.2
SAMPLES = 64
TEMPERATURE = 4.0


def made(**changes: Any) -> Any:
    """TinyNet without dropout, so that both sides can have one loss; a batch is the whole training split."""
    return recipe(
        {"use": "logits", "temperature": TEMPERATURE},
        **{
            "run__figures": False,
            "run__log_every": 50,
            "run__threads": 1,
            "student": {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}},
            "data__batch_size": SAMPLES,
            "data__args": {"train": SAMPLES, "val": SAMPLES, "test": 9},
            **changes,
        },
    )


def stillhouse(epochs: int, **checkpoints: float) -> tuple[float, float]:
    """Seconds of processor time of a run, and the validation loss at its end."""
    with tempfile.TemporaryDirectory() as folder:
        training = prepare(made(run__epochs=epochs, checkpoints=checkpoints), out=Path(folder) / "run")
        start = time.process_time()
        result = training.fit()
        return time.process_time() - start, result.metrics["val"]["loss"]


def by_hand(epochs: int) -> tuple[float, float]:
    """The same by a bare loop: step, evaluation, the same metrics; nothing is written."""
    training = prepare(made(run__epochs=1), write=False)
    student, teacher = copy.deepcopy(training.run.student), copy.deepcopy(training.run.teacher)
    training.close()
    for model in (student, teacher):
        for module in model.modules():
            module._forward_hooks.clear()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, fused=True)
    data = tiny_data(SAMPLES, SAMPLES, 9)
    x, y = data["train"].tensors
    xs, ys = data["val"].tensors
    start = time.process_time()
    for _ in range(epochs):
        student.train()
        out = student(x)
        with torch.no_grad():
            soft = teacher(x)
        loss = F.cross_entropy(out, y)
        log_p, log_q = F.log_softmax(out / TEMPERATURE, 1), F.log_softmax(soft / TEMPERATURE, 1)
        loss = loss + F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * TEMPERATURE**2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            out = student(xs)
            right = (out.argmax(1) == ys).float().mean().item()
            measured = F.cross_entropy(out, ys).item()
    assert right <= 1
    return time.process_time() - start, measured


def milliseconds(run: Callable[[int], tuple[float, float]]) -> float:
    """An epoch's, from a short run and a long one, one after the other."""
    short, _ = run(SHORT)
    long, _ = run(LONG)
    return (long - short) / (LONG - SHORT) * 1e3


def seconds_of_steps(steps: int, log_every: int) -> float:
    """Processor time of a run of one epoch of tiny steps."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"data__args": {"train": 8 * steps}, "data__batch_size": 8, "run__epochs": 1}
        training = prepare(made(**changes, run__log_every=log_every), out=Path(folder) / "run")
        start = time.process_time()
        training.fit()
        return time.process_time() - start


def log_ratio() -> float:
    """A step's processor time in a run that logs each one over that in a run that logs every 50th."""
    each, default = (seconds_of_steps(MANY, every) - seconds_of_steps(FEW, every) for every in (1, 50))
    return each / default


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    losses = [run(SHORT)[1] for run in (by_hand, stillhouse)]
    assert abs(losses[0] - losses[1]) <= 1e-4 * losses[0], losses
    sides: dict[str, Callable[[int], tuple[float, float]]] = {
        "by hand": by_hand,
        "default": stillhouse,
        "each": lambda epochs: stillhouse(epochs, every_seconds=0),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    ratios = []
    for _ in range(TURNS):
        for name, run in sides.items():
            found[name].append(milliseconds(run))
        ratios.append(log_ratio())

    def beyond(name: str) -> str:
        extra = sorted(a - b for a, b in zip(found[name], found["by hand"], strict=True))
        return f"{statistics.median(extra):.2f} ms ({extra[0]:.2f} to {extra[-1]:.2f})"

    def verdict(value: float, target: float) -> str:
        return "met" if value <= target else "missed"

    extra = statistics.median(a - b for a, b in zip(found["default"], found["by hand"], strict=True))
    ratio = statistics.median(ratios)
    bare = f"bare loop, {statistics.median(found['by hand']):.2f} ms an epoch"
    rows = [
        [
            "an epoch of one step, validation of 64",
            bare,
            beyond("default"),
            f"at most {TARGET} ms: {verdict(extra, TARGET)}",
        ],
        [
            "the same, `checkpoints.every_seconds = 0`",
            bare,
            beyond("each"),
            "none: what a checkpoint at each epoch costs",
        ],
        [
            "`run.log_every = 1`",
            "the default, 50",
            f"x{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"at most x{LOG_TARGET}: {verdict(ratio, LOG_TARGET)}",
        ],
    ]
    report(
        "The fixed cost of an epoch",
        ["what", "the other side", "Stillhouse over it: processor time, median (least to greatest)", "target"],
        rows,
        [
            f"An epoch's price is the difference of runs of {LONG} and {SHORT} epochs; both sides in turn, {TURNS} times. The "
            "validation losses of both are asserted to agree first.",
            f"A logged step's likewise, of runs of {MANY} and {FEW} steps of TinyNet on batches of 8.",
        ],
    )


if __name__ == "__main__":
    main()
