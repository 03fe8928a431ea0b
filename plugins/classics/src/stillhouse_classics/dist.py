"""DIST: distillation from a stronger teacher (Huang et al. 2022, 2205.10536)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_not_negative, check_positive
from stillhouse_classics.logits import read_logits

__all__ = ["StrongerTeacher", "correlation_loss"]

_LEAST = 1e-12
"""The least sum of squares about the mean that is more than rounding of numbers up to 1."""


def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus Pearson's correlation of each row (R, C) with the teacher's, the mean over rows: equation 6.

    A row that is the same throughout, as all are of a layer that starts at zero, has no correlation and gets no gradient:
    divided by its deviation, rounding alone would give one of 1e7.
    """
    s, t = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    ss, tt = s.square().sum(1), t.square().sum(1)
    varied = (ss > _LEAST) & (tt > _LEAST)
    one = torch.ones_like(ss)
    cosine = (s * t).sum(1) * torch.where(varied, ss, one).rsqrt() * torch.where(varied, tt, one).rsqrt()
    return 1 - torch.where(varied, cosine, torch.zeros_like(cosine)).mean()


@plugin
class StrongerTeacher(Plugin):
    """Match how classes rank for each sample, and samples for each class, in place of the teacher's probabilities.

    Source: 2205.10536, equations 8 to 10: beta times the distance of the rows of softmax(z/T), between classes, and gamma
    times that of its columns, within classes. Both have the factor T^2 of the authors' code.

    Attributes:
        temperature: T > 0; the authors take 1 on ImageNet and 4 on CIFAR.
        beta: the factor of the relations between classes.
        gamma: the factor of the relations within classes.
        weight: the factor of both.
    """

    requires = ("teacher",)

    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        check_not_negative(beta=self.beta, gamma=self.gamma)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """``inter`` and ``intra``, each times its factor and T^2.

        Raises:
            StillhouseError: outputs that are no logits of the same classes.
        """
        student, teacher = ((logits / self.temperature).softmax(1) for logits in read_logits(step))
        scale = self.temperature**2
        return {
            "inter": self.beta * scale * correlation_loss(student, teacher),
            "intra": self.gamma * scale * correlation_loss(student.T, teacher.T),
        }
