"""A number that changes over the run: loss weights and the learning rate use the same shape."""

from __future__ import annotations

import math
from typing import Literal

import attrs

from stillhouse.errors import StillhouseError

__all__ = ["Schedule", "Weight", "value_at"]


@attrs.frozen(kw_only=True)
class Schedule:
    """Warm-up, decay and switch-off of a value; times are fractions of the run's optimizer steps.

    The value rises linearly from 0 to ``peak`` during the warm-up, then goes from ``peak`` to ``final`` by ``decay``,
    and is exactly 0 from ``until`` on. A loss term whose weight is 0 is not computed.

    Attributes:
        peak: the value after the warm-up.
        warmup: fraction of the run (0 to 1) of the linear rise from 0. The warm-up is given in one way only.
        warmup_steps: its length in optimizer steps instead.
        warmup_epochs: its length in epochs instead; 0.5 is half of one.
        decay: ``none``, ``linear`` or ``cosine``, from the end of the warm-up to ``until``.
        final: where the decay ends.
        until: fraction of the run (0 to 1) after which the value is 0; 1 keeps it on to the end.
    """

    peak: float = 1.0
    warmup: float = 0.0
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    decay: Literal["none", "linear", "cosine"] = "none"
    final: float = 0.0
    until: float = 1.0

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.warmup <= 1.0:
            raise StillhouseError(f"warmup = {self.warmup} is no fraction of the run", where="warmup", hint="0 to 1")
        if not self.warmup <= self.until <= 1.0:
            raise StillhouseError(
                f"until = {self.until} lies outside the run", where="until", hint=f"from warmup = {self.warmup} to 1"
            )
        lengths = ("warmup", "warmup_steps", "warmup_epochs")
        given = [name for name in lengths if getattr(self, name) not in (None, 0)]
        if len(given) > 1:
            raise StillhouseError(f"has {' and '.join(given)} at once", hint="the warm-up's length is given in one way")
        for name in lengths[1:]:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise StillhouseError(f"{name} = {value} is no length", where=name, hint="0 or more")

    @property
    def constant(self) -> bool:
        """Whether the value is ``peak`` throughout."""
        warms_up = self.warmup or self.warmup_steps or self.warmup_epochs
        return not warms_up and self.decay == "none" and self.until == 1.0

    def in_steps(self, total: int, steps_per_epoch: int) -> Schedule:
        """The same for a run of ``total`` optimizer steps, with a warm-up in epochs given in steps.

        Raises:
            StillhouseError: the warm-up does not end before the run, or before ``until``.
        """
        schedule = self
        if self.warmup_epochs is not None:
            steps = round(self.warmup_epochs * steps_per_epoch)
            schedule = attrs.evolve(self, warmup_epochs=None, warmup_steps=steps)
        length = schedule.warmup_steps or 0
        if length > self.until * total:
            key = "warmup_steps" if self.warmup_epochs is None else "warmup_epochs"
            end = f"the value is 0 from step {math.ceil(self.until * total)} on" if self.until < 1.0 else ""
            raise StillhouseError(
                f"a warm-up of {length} steps does not end: {end or f'the run has {total} steps'}",
                where=key,
                hint="a shorter warm-up, or more epochs",
            )
        return schedule

    def at(self, step: int, total: int) -> float:
        """The value at optimizer step ``step`` (counted from 0) of ``total``.

        Raises:
            ValueError: the warm-up is given in epochs: see :meth:`in_steps`.
        """
        if self.warmup_epochs:
            raise ValueError("a warm-up in epochs has no length here: ask in_steps(...) for one in steps")
        time = step / max(total, 1)
        if self.until < 1.0 and time >= self.until:
            return 0.0
        warmup = self.warmup_steps / max(total, 1) if self.warmup_steps else self.warmup
        if step < self.warmup_steps if self.warmup_steps else time < warmup:
            return self.peak * (step + 1) / (self.warmup_steps or math.ceil(warmup * total))
        if self.decay == "none" or self.until <= warmup:
            return self.peak
        done = min(1.0, (time - warmup) / (self.until - warmup))
        mix = (1.0 + math.cos(math.pi * done)) / 2.0 if self.decay == "cosine" else 1.0 - done
        return self.final + (self.peak - self.final) * mix


Weight = float | Schedule
"""A loss weight: a number, or a :class:`Schedule`."""


def value_at(weight: Weight, step: int, total: int) -> float:
    """The value of a number or schedule at optimizer step ``step`` (from 0) of ``total``."""
    return weight.at(step, total) if isinstance(weight, Schedule) else float(weight)
