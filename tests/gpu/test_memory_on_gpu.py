"""Memory on the device: a step's peak is the loop by hand's, and nothing of a step lives on after it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _gpu_cases import SMALL_PAIRS, Case, recipe
from _plain_loop import PlainLoop
from support import FIVE
from support import recipe as tiny

from stillhouse import prepare
from stillhouse.data import Batch

pytestmark = pytest.mark.gpu


def peak(step: Callable[[], object], device: str) -> int:
    """The most bytes during a step, above what was there before it."""
    for _ in range(3):
        step()
    gc.collect()
    if device == "cpu":
        step()
        return 1
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def allocated(device: str) -> int:
    gc.collect()
    return 0 if device == "cpu" else torch.cuda.memory_allocated()


def prepared(case: Case, device: str) -> tuple[Any, Batch]:
    training = prepare(recipe(case, device, steps=8), write=False)
    training.run.composition.train()
    trainer = training.run.trainer
    trainer.state.epoch = trainer.state.iteration = 1
    n, size = case.pair.batch, case.pair.size
    return training, Batch(torch.rand(n, 3, size, size, device=device), torch.arange(n, device=device), torch.arange(n))


@pytest.mark.parametrize("pair", ["ResNet-18 <- ResNet-50", "ViT-Tiny <- ViT-Small"])
def test_the_peak_is_that_of_the_loop_by_hand(pair: str, device: str):
    training, batch = prepared(Case("plugins", SMALL_PAIRS[pair], "all five"), device)
    trainer, loop = training.run.trainer, PlainLoop(training)
    ours = peak(lambda: trainer._process_function(trainer, batch), device)
    trainer.state.step.clear()
    with loop.alone():
        hand = peak(lambda: loop(batch), device)
    assert ours <= 1.02 * hand


def test_steps_leave_nothing_behind(device: str):
    training, batch = prepared(Case("plugins", SMALL_PAIRS["ViT-Tiny <- ViT-Small"], "all five"), device)
    trainer = training.run.trainer
    seen = []
    for _ in range(6):
        trainer._process_function(trainer, batch)
        trainer.state.step.clear()
        seen.append(allocated(device))
    assert seen[2] == seen[-1]


def test_a_run_that_has_ended_gives_its_memory_back(device: str):
    made = tiny(*FIVE.values(), run__device=device)
    prepare(made, write=False).fit()  # libraries' own workspaces are there from now on
    before = allocated(device)
    result = prepare(made, write=False).fit()
    held = sum(t.untyped_storage().nbytes() for t in result.student.state_dict().values())
    # The student alone is kept; the allocator deals in blocks of 512 bytes.
    blocks = len(result.student.state_dict()) * 512
    assert allocated(device) - before <= held + blocks
    del result
    assert allocated(device) == before
