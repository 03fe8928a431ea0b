"""Logit standardisation (Sun et al. 2024, 2403.01427)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_positive
from stillhouse_classics.logits import divergence, read_logits

__all__ = ["LogitStandardisation", "standardise", "standardised_loss"]

_LEAST = 1e-7
"""Added to deviations, as in the authors' code."""


def standardise(logits: Tensor) -> Tensor:
    """Each row of logits (R, C) less its mean, over its deviation (divisor C - 1): algorithm 1's Z-score.

    A row without a deviation, as all are of a layer that starts at zero, becomes zeros without a gradient, which would be of 1e7.
    """
    deviation = logits.std(1, keepdim=True)
    varied = deviation > _LEAST
    scored = (logits - logits.mean(1, keepdim=True)) / (
        torch.where(varied, deviation, torch.ones_like(deviation)) + _LEAST
    )
    return torch.where(varied, scored, torch.zeros_like(scored))


def standardised_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 KL(softmax(z(t)/T) || softmax(z(s)/T)) with z the standardised logits, mean over rows: algorithm 2.

    Args:
        student: logits (R, C).
        teacher: logits (R, C).
        temperature: T, the paper's base temperature.
    """
    return divergence(standardise(student), standardise(teacher), temperature) * temperature**2


@plugin
class LogitStandardisation(Plugin):
    """Match the teacher's probabilities whatever the range of its logits is.

    Source: 2403.01427, algorithms 1 and 2. It stands in the place of ``logits``; the student's own logits keep their
    range, as only this term sees them standardised.

    Attributes:
        temperature: T > 0, after the standardisation.
        weight: the term's factor; 9 in the authors' experiments.
    """

    requires = ("teacher",)

    temperature: float = 2.0
    weight: Weight = 9.0

    def __attrs_post_init__(self) -> None:
        check_positive(temperature=self.temperature)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The divergence of the standardised logits.

        Raises:
            StillhouseError: outputs that are no logits of the same classes.
        """
        return {"": standardised_loss(*read_logits(step), self.temperature)}
