"""CTKD: curriculum temperature (Li et al. 2023, 2211.16231)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_positive
from stillhouse_classics.logits import divergence, read_logits

__all__ = ["CurriculumTemperature", "difficulty", "turn_gradient"]


def difficulty(step: int, steps: float) -> float:
    """How much of the turned gradient counts: from 0 to 1 by half a cosine over ``steps``, and 1 from there (equation 8)."""
    return (1 - math.cos(math.pi * min(1.0, step / steps))) / 2


def turn_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, whose gradient is multiplied by ``-factor``: a gradient reversal layer."""
    return x.detach() * (1 + factor) - factor * x


class Temperature(nn.Module):
    """One temperature for all samples, between ``low`` and ``low + span``; it starts in the middle."""

    def __init__(self, low: float, span: float, steps: float) -> None:
        super().__init__()
        self.low, self.span, self.steps = low, span, steps
        self.raw = nn.Parameter(torch.zeros(()))

    def forward(self, step: int) -> Tensor:
        """The temperature, a scalar, for the optimizer step ``step``, with its gradient turned."""
        return self.low + self.span * torch.sigmoid(turn_gradient(self.raw, difficulty(step, self.steps)))


@plugin
class CurriculumTemperature(Plugin):
    """Distil outputs at a temperature that is trained against the student, little at first and wholly in the end.

    Source: 2211.16231, equations 4 to 8, in the form of one global temperature: T = low + span sigmoid(a), where a gets
    the gradient of T^2 KL with its sign turned. The form with a temperature for each sample is not here.

    Attributes:
        low: the least temperature, above 0.
        span: what can be added to it, above 0.
        share: the share of the run over which the turned gradient grows to its whole, above 0, at most 1.
        weight: the term's factor.
    """

    requires = ("teacher",)

    low: float = 1.0
    span: float = 20.0
    share: float = 0.1
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(low=self.low, span=self.span)
        if not 0 < self.share <= 1:
            raise StillhouseError(f"must be above 0 and at most 1, got {self.share}", where="share")

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """The temperature."""
        return Temperature(self.low, self.span, self.share * assembly.total_steps)

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> Mapping[str, float]:
        """No weight decay: it would pull the temperature to the middle."""
        return {"weight_decay": 0.0}

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """T^2 KL at the temperature of this step.

        Raises:
            StillhouseError: outputs that are no logits of the same classes.
        """
        temperature: Tensor = step.module(self)(step.iteration)
        return {"": temperature.square() * divergence(*read_logits(step), temperature)}

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``temperature``."""
        return {"temperature": step.module(self)(step.iteration).detach()}
