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

    The value rises linearly from 0 to ``peak`` during ``warmup``, then goes from ``peak`` to ``final`` by ``decay``,
    and is exactly 0 from ``until`` on. A loss term whose weight is 0 is not computed.

    Attributes:
        peak: the value after the warm-up.
        warmup: fraction of the run (0 to 1) of the linear rise from 0.
        decay: ``none``, ``linear`` or ``cosine``, from the end of the warm-up to ``until``.
        final: where the decay ends.
        until: fraction of the run (0 to 1) after which the value is 0; 1 keeps it on to the end.
    """

    peak: float = 1.0
    warmup: float = 0.0
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

    def at(self, step: int, total: int) -> float:
        """The value at optimizer step ``step`` (counted from 0) of ``total``."""
        time = step / max(total, 1)
        if self.until < 1.0 and time >= self.until:
            return 0.0
        if time < self.warmup:
            return self.peak * (step + 1) / math.ceil(self.warmup * total)
        if self.decay == "none" or self.until <= self.warmup:
            return self.peak
        done = min(1.0, (time - self.warmup) / (self.until - self.warmup))
        mix = (1.0 + math.cos(math.pi * done)) / 2.0 if self.decay == "cosine" else 1.0 - done
        return self.final + (self.peak - self.final) * mix


Weight = float | Schedule
"""A loss weight: a number, or a :class:`Schedule`."""


def value_at(weight: Weight, step: int, total: int) -> float:
    """The value of a number or schedule at optimizer step ``step`` (from 0) of ``total``."""
    return weight.at(step, total) if isinstance(weight, Schedule) else float(weight)
