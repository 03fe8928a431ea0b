"""Points of curves, collected for some time: to hand one over can cost more than a short step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from stillhouse.contract.run import Run
from stillhouse.contract.step import Step

__all__ = ["MOST", "Point", "Points", "is_checkpoint_due"]

_WAIT = 1.0
"""Seconds for which points are collected."""

MOST = 500
"""Points that are collected."""


class Point(NamedTuple):
    """What was logged or measured at one time.

    Attributes:
        step: optimizer steps done.
        scalars: the numbers by tag.
        at: seconds since 1970.
    """

    step: int
    scalars: Mapping[str, float]
    at: float


class Points:
    """Those that wait to be handed over, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Point] = []
        self._taken_at = 0.0

    def add(self, step: int, scalars: Mapping[str, float]) -> bool:
        """Collect a point; True where it is time to hand over."""
        now = time.time()
        self._waiting.append(Point(step, scalars, now))
        return now - self._taken_at > _WAIT or len(self._waiting) >= MOST

    def take(self) -> list[Point]:
        """The points that wait, which this forgets."""
        points, self._waiting = self._waiting, []
        self._taken_at = time.time()
        return points


def is_checkpoint_due(run: Run, step: Step) -> bool:
    """Whether a checkpoint inside the epoch follows this step: a run that goes on from it logs nothing before it again."""
    every = run.recipe.checkpoints.every_steps
    return every is not None and (step.iteration + 1) % every == 0
