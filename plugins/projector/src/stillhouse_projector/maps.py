"""The maps from one feature space to another: linear, MLP, orthogonal. Each acts on rows (R, d_in) -> (R, d_out)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from stillhouse_projector.orthogonality import draw_haar, retract

__all__ = ["Kind", "OrthogonalMap", "RetractedMap", "make_map"]

Kind = Literal["linear", "mlp", "orthogonal"]
OrthogonalMap = Literal["retraction", "matrix_exp", "cayley"]


class RetractedMap(nn.Module):
    """An orthogonal map whose weight is a plain parameter, put back on the manifold after each optimizer step.

    Attributes:
        weight: (d_out, d_in), with an orthonormal shorter side; Haar at the start.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw_haar(d_out, d_in))

    def forward(self, rows: Tensor) -> Tensor:
        """Z W^T for rows Z (R, d_in)."""
        return F.linear(rows, self.weight)

    @torch.no_grad()
    def retract(self) -> None:
        """Put the weight back on the manifold, in place."""
        self.weight.copy_(retract(self.weight))


def make_map(
    kind: Kind, d_in: int, d_out: int, *, orthogonal_map: OrthogonalMap = "retraction", hidden: int | None = None
) -> nn.Module:
    """Make a trainable map of rows (R, d_in) to rows (R, d_out), in float32, initialised by torch's global generator.

    Args:
        kind: ``linear`` is one matrix without bias (2403.14494); ``mlp`` is linear, ReLU, linear, with biases;
            ``orthogonal`` is one matrix with an orthonormal shorter side, without bias (2403.06213, section 3.1).
        d_in: channels of the mapped side.
        d_out: channels of the other side.
        orthogonal_map: how an orthogonal map stays one. ``retraction``: see :class:`RetractedMap`. ``matrix_exp`` and
            ``cayley``: the first columns of Q exp(A) or Q (I + A/2)(I - A/2)^{-1}, A skew-symmetric and 0 at the start,
            Q a fixed Haar matrix. The paper's map is exp(W) alone, which is the same set of matrices in other
            coordinates; with Q in front the start is uniform and A small, where both maps are most accurate.
        hidden: the MLP's inner width; None takes the larger of the two.

    Raises:
        StillhouseError: a width is below 1.
    """
    if kind == "linear":
        return nn.Linear(d_in, d_out, bias=False)
    if kind == "mlp":
        inner = hidden or max(d_in, d_out)
        return nn.Sequential(nn.Linear(d_in, inner), nn.ReLU(), nn.Linear(inner, d_out))
    if orthogonal_map == "retraction":
        return RetractedMap(d_in, d_out)
    linear = nn.Linear(d_in, d_out, bias=False)
    with torch.no_grad():
        linear.weight.copy_(draw_haar(d_out, d_in))
    # The map is always named. Left to choose, torch takes Householder reflections for a matrix that is not square,
    # whose columns are multiplied by an int() of the weight's diagonal: the first step with weight decay moves -1 to
    # -0.99998, int() makes it 0, and the projection is zero from then on, with no gradient for the student.
    return parametrizations.orthogonal(linear, "weight", orthogonal_map=orthogonal_map)
