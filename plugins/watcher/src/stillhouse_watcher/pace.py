"""When to look: twice in any run, five times where its length allows, and else as often as the time does."""

from __future__ import annotations

from stillhouse.config.run_options import WatchSpec

__all__ = ["Pace"]

CHECKED = 3
"""A run's first steps, in which the engine looks at the hooks itself."""
PARTS = 4
"""A run has a look at its first logged step and at its last; and at the ends of its quarters, where these are far apart."""


class Pace:
    """Chooses the steps that are looked at, among those that are logged.

    Args:
        spec: the budget, or the spacing.
        log_every: steps between two that are logged; an epoch's last is as well.
        steps_per_epoch: steps in an epoch.
        total: steps of the run.
        done: steps that were done before, in a run that goes on.
        now: the clock's seconds as training begins.

    Attributes:
        spent: seconds that the looks have taken.
        looks: how many there were.
    """

    def __init__(
        self, spec: WatchSpec, *, log_every: int, steps_per_epoch: int, total: int, done: int, now: float
    ) -> None:
        self._spec, self._periods, self._began = spec, (log_every, steps_per_epoch), now
        self._last, self._first = done, min(done + CHECKED, total - 1)
        first, *quarters, last = (
            self.find_logged(max(self._first, total * part // PARTS - 1)) for part in range(PARTS + 1)
        )
        self._ends, self._quarters = {first, last}, set(quarters)
        self._rested_since = now
        self.spent, self.looks = 0.0, 0

    def find_logged(self, done: int) -> int:
        """The first step after ``done``, from 1, that is logged."""
        return min(done - done % period + period for period in self._periods)

    def add(self, step: int, seconds: float, now: float) -> None:
        """A look has been taken at ``step``, and was done by ``now``."""
        self._last, self._rested_since = step, now
        self.spent += seconds
        self.looks += 1

    def choose(self, done: int, now: float) -> int | None:
        """The next logged step, if it is to be looked at; asked at the end of each step that is logged."""
        step = self.find_logged(max(done, self._first))
        if self._spec.every:
            return step if step - self._last >= self._spec.every or not self.looks else None
        one = self.spent / self.looks if self.looks else 0.0
        if step in self._ends or self.spent + one <= self._spec.budget * (now - self._began):
            return step
        # A short run, whose looks are a good part of it, does without the quarters.
        return step if step in self._quarters and one <= self._spec.budget * (now - self._rested_since) else None
