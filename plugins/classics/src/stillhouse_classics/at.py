"""AT: attention transfer (Zagoruyko and Komodakis 2017, 1612.03928)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_positive
from stillhouse_classics.links import check_positions, give_terms, to_positions

__all__ = ["AttentionTransfer", "attention", "attention_loss"]

Form = Literal["code", "paper"]


def attention(x: Tensor, power: float = 2.0) -> Tensor:
    """Where a layer looks: the mean over channels of |x|^power at each position, of Euclidean norm 1.

    Section 3.1's F_sum^p, up to a factor that the norm takes out. (B, C, H, W) or (B, N, C) -> (B, P).
    """
    return F.normalize(to_positions(x).abs().pow(power).mean(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0, form: Form = "code") -> Tensor:
    """The distance of the two attention maps.

    Args:
        student: maps (B, C, H, W) or tokens (B, N, C).
        teacher: the same positions; channels may differ.
        power: p of |x|^p.
        form: ``code`` is the authors' code, the mean over samples and positions of the squared difference; ``paper`` is
            equation 2, half the Euclidean norm of the difference, here the mean over samples.

    Raises:
        StillhouseError: the positions differ, or there is only one.
    """
    check_positions(student, teacher)
    if to_positions(student).shape[2] < 2:
        raise StillhouseError(
            "needs at least 2 positions: attention is where, and there is one place only",
            hint='read the layers with pool = "none"',
        )
    difference = attention(student, power) - attention(teacher, power)
    if form == "code":
        return difference.square().mean()
    lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return 0.5 * lengths.mean()


@plugin
class AttentionTransfer(Plugin):
    """Have the student look where the teacher looks.

    Source: 1612.03928, equation 2, on each link. Paper and code differ by the square and by the mean over positions;
    ``form`` chooses.

    Attributes:
        links: glob over link names; their sides keep positions (``pool = "none"``).
        power: p of |x|^p, above 0.
        form: ``code`` or ``paper``.
        weight: the factor of each link's term. The authors' 1,000 / 2 goes with ``code``.
    """

    requires = ("links",)

    links: str = "*"
    power: float = 2.0
    form: Form = "code"
    weight: Weight = 500.0

    def __attrs_post_init__(self) -> None:
        check_positive(power=self.power)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the attention maps of each link."""
        return give_terms(step.match(self.links), lambda s, t: attention_loss(s, t, self.power, self.form))
