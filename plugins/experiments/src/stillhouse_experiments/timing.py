"""Timing of functions side by side in one process, on one thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["interleaved", "ratio", "stay_on_one_core", "steady_allocator"]


def stay_on_one_core() -> None:
    """Keep this thread, and those that it begins, on the last core that it may use, where the system can tell it to.

    Of loops in threads of their own each would else have a core of its own for a while; one core of a machine that others use as well is
    a tenth slower than the next, and the first one serves the interrupts.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def steady_allocator() -> None:
    """Have glibc keep freed memory, in one heap for all threads that begin from now on.

    Giving it back and faulting it in again takes a third of a small CNN's step, at random, and a thread's own heap has no room for
    large tensors: each of them is mapped anew.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has other habits
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-8, 1)  # M_ARENA_MAX
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD


def interleaved(
    cases: Mapping[str, Callable[[], object]], *, repeats: int = 7, calls: int = 1, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds per call of each case, ``repeats`` values each: in every turn all of them, in random order.

    One thread: the ratios of values taken in the same turn hold when the machine's speed drifts.

    Args:
        cases: functions to time, by name.
        repeats: turns.
        calls: calls that one value is the mean of; raise it where a call takes less than a millisecond.
        warmup: calls of each case before the first turn.
    """
    torch.set_num_threads(1)
    steady_allocator()
    for case in cases.values():
        for _ in range(warmup):
            case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases.items())
    shuffle = random.Random(0).shuffle  # noqa: S311 - an order, no secret
    for _ in range(repeats):
        shuffle(order)  # what ran just before leaves its mark on the caches: on every case alike
        for name, case in order:
            start = time.perf_counter()
            for _ in range(calls):
                case()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], over: str, under: str) -> tuple[float, float, float]:
    """Minimum, median and maximum of ``over / under`` turn by turn."""
    ratios = sorted(a / b for a, b in zip(seconds[over], seconds[under], strict=True))
    return ratios[0], statistics.median(ratios), ratios[-1]
