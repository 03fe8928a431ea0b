"""NST: neuron selectivity transfer (Huang and Wang 2017, 1707.01219)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse_classics.links import check_positions, give_terms, to_positions

__all__ = ["NeuronSelectivity", "selectivity_loss"]

Kernel = Literal["polynomial", "linear", "gaussian"]


def selectivity_loss(student: Tensor, teacher: Tensor, kernel: Kernel = "polynomial") -> Tensor:
    """The squared maximum mean discrepancy of the two sides' channels, as places that each selects; mean over samples.

    Equation 5. Each channel's activations over the P positions are a point of Euclidean norm 1. Kernels as in section
    4.2: <x, y>; <x, y>^2; exp(-|x - y|^2 / (2 m)), with m the mean squared distance of the pairs between both sides.

    Args:
        student: maps (B, C, H, W) or tokens (B, N, C).
        teacher: the same positions; channels may differ.
        kernel: ``polynomial``, ``linear`` or ``gaussian``.

    Raises:
        StillhouseError: the positions differ, or there is only one.
    """
    check_positions(student, teacher)
    s, t = to_positions(student), to_positions(teacher)
    if s.shape[2] < 2:
        raise StillhouseError("needs at least 2 positions", hint='read the layers with pool = "none"')
    s, t = F.normalize(s, dim=2), F.normalize(t, dim=2)
    apart = _measure_distances(s, t, s @ t.transpose(1, 2))
    scale = apart.mean((1, 2), keepdim=True).detach().clamp(min=1e-6)
    between = _compare(s, t, kernel, scale).mean((1, 2))
    within = [_compare(x, x, kernel, scale).mean((1, 2)) for x in (s, t)]
    return (within[0] + within[1] - 2 * between).mean()


def _compare(a: Tensor, b: Tensor, kernel: Kernel, scale: Tensor) -> Tensor:
    """The kernel (B, C, D) of channels (B, C, P) and (B, D, P)."""
    inner = a @ b.transpose(1, 2)
    if kernel == "linear":
        return inner
    if kernel == "polynomial":
        return inner.square()
    return torch.exp(-_measure_distances(a, b, inner) / (2 * scale))


def _measure_distances(a: Tensor, b: Tensor, inner: Tensor) -> Tensor:
    """The squared distances (B, C, D) of points of norm 1, or of 0 for a channel that is off everywhere."""
    return a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None, :] - 2 * inner


@plugin
class NeuronSelectivity(Plugin):
    """Have the student's channels select places as the teacher's do, whichever channel it is.

    Source: 1707.01219, equation 5, on each link. The paper's best is the polynomial kernel of degree 2 without offset.
    With the linear kernel it is a form of attention transfer. The gaussian kernel's width is taken as a constant, so
    that no gradient goes through it [choice].

    Attributes:
        links: glob over link names; their sides keep positions (``pool = "none"``).
        kernel: ``polynomial``, ``linear`` or ``gaussian``.
        weight: the factor of each link's term.
    """

    requires = ("links",)

    links: str = "*"
    kernel: Kernel = "polynomial"
    weight: Weight = 50.0

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The discrepancy of each link."""
        return give_terms(step.match(self.links), lambda s, t: selectivity_loss(s, t, self.kernel))
