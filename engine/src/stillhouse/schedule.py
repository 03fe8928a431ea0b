"""Schedules of loss weights and of the learning rate: warm-up, decay and switch-off over a run."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

import attrs

from stillhouse.errors import StillhouseError

__all__ = ["Schedule", "Weight", "value_at"]

Decay = Literal["none", "linear", "cosine", "steps"]
"""How a schedule falls."""

_MILESTONES = ("milestones", "milestone_steps", "milestone_epochs")


@attrs.frozen(kw_only=True)
class Schedule:
    """Warm-up, decay and switch-off of a value; times are fractions of the run's optimizer steps.

    The value rises linearly from 0 to ``peak`` during the warm-up, then goes from ``peak`` to ``final`` by ``decay``,
    and is exactly 0 from ``until`` on. A loss term whose weight is 0 is not computed.

    Attributes:
        peak: the value after the warm-up.
        warmup: fraction of the run (0 to 1) of the linear rise from 0. Only one of the three warm-ups may be set.
        warmup_steps: its length in optimizer steps instead.
        warmup_epochs: its length in epochs instead; 0.5 is half of one.
        decay: ``none``, ``linear`` or ``cosine``, from the end of the warm-up to ``until``; ``steps``: multiplied by ``factor``
            at each of the milestones.
        final: the value at the decay's end, its floor.
        until: fraction of the run (0 to 1) after which the value is 0; 1 keeps it on to the end.
        decay_until: fraction of the run at which the decay has reached ``final``, which holds from there on; None: it would
            at ``until``, and the last step is just short of it.
        milestones: of ``steps``: fractions of the run. Only one of the three kinds of milestones may be set.
        milestone_steps: optimizer steps instead.
        milestone_epochs: epochs instead: ``[30, 60]``.
        factor: of ``steps``; None: 0.1.
    """

    peak: float = 1.0
    warmup: float = 0.0
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    decay: Decay = "none"
    final: float = 0.0
    until: float = 1.0
    decay_until: float | None = None
    milestones: tuple[float, ...] | None = None
    milestone_steps: tuple[int, ...] | None = None
    milestone_epochs: tuple[float, ...] | None = None
    factor: float | None = None

    def __attrs_post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise StillhouseError(
                f"must be one of {', '.join(map(repr, get_args(Decay)))}, got {self.decay!r}", where="decay"
            )
        if isinstance(self.warmup_steps, float) and self.warmup_steps % 1:
            raise StillhouseError(f"must be a whole number, got {self.warmup_steps}", where="warmup_steps")
        for name in ("peak", "final"):
            if not math.isfinite(getattr(self, name)):
                raise StillhouseError(f"must be finite, got {getattr(self, name)}", where=name)
        if not 0.0 <= self.warmup <= 1.0:
            raise StillhouseError(f"must be in [0, 1], got {self.warmup}", where="warmup", hint="a fraction of the run")
        if not self.warmup <= self.until <= 1.0:
            raise StillhouseError(
                f"must be in [warmup, 1] = [{self.warmup}, 1], got {self.until}",
                where="until",
                hint="a fraction of the run",
            )
        lengths = ("warmup", "warmup_steps", "warmup_epochs")
        given = [name for name in lengths if getattr(self, name) not in (None, 0)]
        if len(given) > 1:
            raise StillhouseError(f"{' and '.join(given)} cannot be combined", hint="set one length of the warm-up")
        for name in lengths[1:]:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise StillhouseError(f"must be finite and >= 0, got {value}", where=name)
        self._check_decay()

    def _check_decay(self) -> None:
        if self.decay_until is not None:
            if self.decay not in ("linear", "cosine"):
                raise StillhouseError("needs a decay, linear or cosine", where="decay_until")
            if not self.warmup <= self.decay_until <= self.until:
                what = f"must be in [warmup, until] = [{self.warmup}, {self.until}], got {self.decay_until}"
                raise StillhouseError(what, where="decay_until", hint="a fraction of the run")
        given = [name for name in _MILESTONES if getattr(self, name) is not None]
        if self.decay == "steps" and len(given) != 1:
            raise StillhouseError(
                f"'steps' needs one of {', '.join(_MILESTONES)}, got {' and '.join(given) or 'none'}", where="decay"
            )
        if self.decay != "steps" and (given or self.factor is not None):
            raise StillhouseError('needs decay = "steps"', where=(*given, "factor")[0])
        for name in given:
            places = getattr(self, name)
            if list(places) != sorted(places) or any(not 0 < place < math.inf for place in places):
                raise StillhouseError(f"must be > 0 and rise, got {list(places)}", where=name)
        if self.factor is not None and not 0.0 <= self.factor < math.inf:
            raise StillhouseError(f"must be finite and >= 0, got {self.factor}", where="factor")

    @property
    def constant(self) -> bool:
        """Whether the value is ``peak`` throughout."""
        warms_up = self.warmup or self.warmup_steps or self.warmup_epochs
        return not warms_up and self.decay == "none" and self.until == 1.0

    def to_steps(self, total: int, steps_per_epoch: int) -> Schedule:
        """Return the schedule of a run of ``total`` optimizer steps, a warm-up in epochs converted to steps.

        Raises:
            StillhouseError: the warm-up does not end before the run, or before ``until``.
        """
        schedule = self
        if self.warmup_epochs is not None:
            steps = round(self.warmup_epochs * steps_per_epoch)
            schedule = attrs.evolve(self, warmup_epochs=None, warmup_steps=steps)
        if self.milestone_epochs is not None:
            places = tuple(round(epoch * steps_per_epoch) for epoch in self.milestone_epochs)
            schedule = attrs.evolve(schedule, milestone_epochs=None, milestone_steps=places)
        length = schedule.warmup_steps or 0
        if self.decay_until is not None and length > _exact(self.decay_until) * total:
            raise StillhouseError(
                f"the warm-up of {length} steps must end before the decay does, at {self.decay_until} of {total} steps",
                where="decay_until",
                hint="a shorter warm-up, or a later end",
            )
        if length > _exact(self.until) * total:
            key = "warmup_steps" if self.warmup_epochs is None else "warmup_epochs"
            end = f"the value is 0 from step {_count_steps(self.until, total)} on" if self.until < 1.0 else ""
            raise StillhouseError(
                f"the warm-up must end within the run, got {length} steps: {end or f'the run has {total} steps'}",
                where=key,
                hint="a shorter warm-up, or more epochs",
            )
        return schedule

    def at(self, step: int, total: int) -> float:
        """Return the value at optimizer step ``step`` (counted from 0) of ``total``.

        Raises:
            ValueError: the warm-up, or a milestone, is in epochs: see :meth:`to_steps`.
        """
        if self.warmup_epochs or self.milestone_epochs:
            raise ValueError("a warm-up or milestones in epochs must be converted by to_steps(...) first")
        total = max(total, 1)
        if self.until < 1.0 and step >= _count_steps(self.until, total):
            return 0.0
        length = self.warmup_steps or _count_steps(self.warmup, total)
        if step < length:
            # The last one by name: 0.3 * 109 / 109 is less than 0.3.
            return self.peak if step + 1 == length else self.peak * (step + 1) / length
        if self.decay == "steps":
            return self.peak * (0.1 if self.factor is None else self.factor) ** self._count_passed(step, total)
        start = self.warmup_steps / total if self.warmup_steps else self.warmup
        end = self.until if self.decay_until is None else self.decay_until
        if self.decay == "none" or (end <= start and self.decay_until is None):
            return self.peak
        done = 1.0 if end <= start else min(1.0, max(0.0, (step / total - start) / (end - start)))
        mix = (1.0 + math.cos(math.pi * done)) / 2.0 if self.decay == "cosine" else 1.0 - done
        return self.final + (self.peak - self.final) * mix

    def _count_passed(self, step: int, total: int) -> int:
        """How many milestones ``step`` has reached."""
        places = self.milestone_steps or [_count_steps(place, total) for place in self.milestones or ()]
        return sum(step >= place for place in places)


def _exact(fraction: float) -> Fraction:
    """The number that was written: 0.28 and not the nearest of float's, which times 25 is more than 7."""
    return Fraction(repr(float(fraction)))


@lru_cache(maxsize=1024)
def _count_steps(fraction: float, total: int) -> int:
    """How many of ``total`` steps, from 0, begin before ``fraction`` of them."""
    return math.ceil(_exact(fraction) * total)


Weight = float | Schedule
"""A loss weight: a number, or a :class:`Schedule`."""


def value_at(weight: Weight, step: int, total: int) -> float:
    """Return the value of a number or schedule at optimizer step ``step`` (from 0) of ``total``."""
    return weight.at(step, total) if isinstance(weight, Schedule) else float(weight)
