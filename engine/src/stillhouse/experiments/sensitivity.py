"""What runs can see: the smallest difference that an ablation's number of seeds finds, before it runs and after."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stillhouse.errors import StillhouseError
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.statistics import LEVEL, POWER, smallest_detectable

__all__ = ["ASSUMED", "check_spread", "describe_detectable", "foretell"]

ASSUMED = 0.01
"""Standard deviation of paired differences where nobody has said one: of accuracies on some hundred samples, about that."""


def check_spread(spread: float | None) -> None:
    """Refuse a standard deviation that is none.

    Raises:
        StillhouseError: it is not finite, or not above zero.
    """
    if spread is not None and not 0 < spread < math.inf:
        raise StillhouseError(f"must be a number > 0, got {spread}", where="--sd", hint="--sd 0.01")


def foretell(seeds: int, families: Sequence[int], spread: float | None = None) -> str:
    """Say, before anything is run, which differences so many seeds cannot find.

    Args:
        seeds: of each arm.
        families: how many comparisons are corrected together, for each family.
        spread: the expected standard deviation of the paired differences, in the metric's unit; None: 0.01 is assumed.
    """
    tests = max([*families, 1])
    if seeds < 2:
        return "With one seed no difference is tested: a second run by chance alone would differ too. --seeds 5 trains more."
    alpha = (1 - LEVEL) / tests

    def find(count: int) -> float:
        return smallest_detectable(spread or ASSUMED, count, alpha)

    whose = "as stated" if spread is not None else "which is assumed, --sd says another"
    corrected = f", corrected for {tests} comparisons" if tests > 1 else ""
    return (
        f"{seeds} seeds find a true difference with probability {POWER} only from {find(seeds):.3g} on, if paired differences "
        f"spread by {spread or ASSUMED:g} ({whose}{corrected}); {2 * seeds} seeds from {find(2 * seeds):.2g} on."
    )


def describe_detectable(comparison: Comparison, title: str) -> str:
    """The smallest and the largest of the detectable differences from one reference, as measured; empty where none is."""
    found = sorted(
        d.detectable
        for row in comparison.rows
        if (d := row.differences[title]) is not None and d.detectable is not None
    )
    ends = [f"{value:.4f}" for value in found]
    return f"{ends[0]} to {ends[-1]}" if ends and ends[0] != ends[-1] else "".join(ends[:1])
