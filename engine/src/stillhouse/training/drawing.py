"""When pictures are drawn: at the run's end, and before it as often as a small share of the time allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MOST", "DrawingPace"]

_SHARE = 0.02
"""Of the time since the run began, what drawing may take before the run's end."""
_GUESS = 0.5
"""Seconds that the first pictures will take, matplotlib's import among them."""
MOST = 20
"""Times that pictures are drawn before the run's end: they are kept, all of them, in the file of events."""


class DrawingPace:
    """Says after which epochs pictures are drawn.

    Args:
        epochs: of the run.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._began = time.perf_counter()
        self._spent = 0.0
        self._longest = _GUESS
        self.drawn_at = -1
        """The iteration at which pictures were drawn last; -1 where none were."""

    def is_due(self, epoch: int) -> bool:
        """Whether pictures are drawn after ``epoch``, from 1; asked after each."""
        if epoch >= self._epochs:
            return True
        allowed = _SHARE * (time.perf_counter() - self._began)
        return epoch % -(-self._epochs // MOST) == 0 and self._spent + self._longest <= allowed

    @contextmanager
    def drawing(self, iteration: int) -> Iterator[None]:
        """Count the block as what drawing at ``iteration`` takes."""
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        self._spent += taken
        self._longest = max(self._longest, taken) if self.drawn_at >= 0 else taken
        self.drawn_at = iteration
