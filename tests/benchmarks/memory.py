"""Peak memory of a training step with the five plugins, against the loop's in plain torch.

Target: within 2%. On the CPU the peak is read off torch's own record of allocations; on CUDA from its allocator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from _bench import report
from _plain_loop import PlainLoop
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
from overhead import small_cnn

from stillhouse import prepare
from stillhouse.data import Batch

WARMUP = 3


def peak_of(step: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors alive during ``step`` above what was alive before it."""
    for _ in range(WARMUP):  # the optimizer's state is made in the first step
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    alive = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    ours, hand = prepare(small_cnn(), write=False), prepare(small_cnn(), write=False)
    device = ours.run.device
    own = next(iter(hand.data.training()))
    batch = Batch(own.input.to(device), own.target.to(device), own.id)
    for training in (ours, hand):
        training.run.student.train()
    loop = PlainLoop(hand)
    trainer = ours.run.trainer
    trainer.state.epoch = trainer.state.iteration = 1
    with loop.alone():
        peak = peak_of(lambda: loop(batch), device)
    peaks = {
        "by hand": peak,
        "Stillhouse": peak_of(lambda: trainer._process_function(trainer, batch), device),
    }
    share = peaks["Stillhouse"] / peaks["by hand"]
    report(
        "Peak memory of a step",
        ["what", "peak above the step's start", "over by hand", "target"],
        [
            ["by hand", f"{peaks['by hand'] / 2**20:.2f} MiB", "", ""],
            ["Stillhouse, 5 plugins", f"{peaks['Stillhouse'] / 2**20:.2f} MiB", f"x{share:.4f}", "at most 1.02"],
        ],
        [f"Device: {device}. One step after {WARMUP} others, on one batch; the count is exact, not sampled."],
    )


if __name__ == "__main__":
    main()
