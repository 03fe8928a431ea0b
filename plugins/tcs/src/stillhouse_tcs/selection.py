"""Iterative selection of dimensions: the rounds, the number dropped in each, and the dropping."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from stillhouse_tcs.head import Readout

__all__ = ["ROUNDS", "WARM_UP", "accumulate", "count_live", "drop", "schedule_drops"]

WARM_UP = 0.1
"""The share of the steps in which nothing is accumulated."""

ROUNDS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""The shares of the steps after which dimensions are dropped."""


def count_live(k: int, rounds: int, keep: int) -> int:
    """Count the live ones of ``k`` dimensions after ``rounds`` rounds of dropping 10%, at least one, down to ``keep``."""
    live = k
    for _ in range(rounds):
        live = max(min(live, keep), live - max(1, live // 10))
    return live


def schedule_drops(total_steps: int) -> Counter[int]:
    """Schedule the rounds: their number after each optimizer step, counted from 1; in short runs several may coincide."""
    return Counter(max(1, math.ceil(share * total_steps)) for share in ROUNDS)


@torch.no_grad()
def accumulate(readout: Readout) -> None:
    """Add |m dL/dm| of the gradients that are there to the scores of the live dimensions.

    A float16 step whose gradients overflowed is left out by the optimizer, and counts for nothing here.
    """
    if readout.mask.grad is not None:
        found = (readout.mask * readout.mask.grad).abs()
        readout.scores += torch.nan_to_num(found, nan=0.0, posinf=0.0) * readout.live


@torch.no_grad()
def drop(readout: Readout, k: int, rounds_done: int, keep: int) -> None:
    """Drop the live dimensions of the lowest scores, for good; scores start again from 0.

    How many are live follows from the number of rounds alone, so that nothing is read from the device.

    Args:
        readout: the readout of the dimensions.
        k: the number of dimensions at first.
        rounds_done: rounds before this one.
        keep: the least number of live dimensions.
    """
    before, after = count_live(k, rounds_done, keep), count_live(k, rounds_done + 1, keep)
    readout.live.index_fill_(0, find_lowest(readout.scores, readout.live, before - after), 0.0)
    readout.scores.zero_()
    readout.history[rounds_done + 1].fill_(after)  # assigning a number would copy it to the device, and wait


def find_lowest(scores: Tensor, live: Tensor, count: int) -> Tensor:
    """Find the indices (count,) of the live dimensions of the lowest scores; of equal ones, the last."""
    # Axes come by descending variance: flipped, a stable sort meets the last one first.
    order = torch.where(live > 0, scores, torch.inf).flip(0).argsort(stable=True)
    return len(scores) - 1 - order[:count]
