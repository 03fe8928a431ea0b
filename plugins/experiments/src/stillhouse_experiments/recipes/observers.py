"""Plugins that only look: measures taken inside of runs, as ``plugin/NAME/...`` in TensorBoard.

They change nothing: a run with one of them ends with the weights of the run without.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Run, Step, Tap, hookimpl, plugin
from stillhouse.layout import to_rows

SAMPLE = 512
"""At most so many rows are looked at: dense maps have thousands."""


def rows_of(x: Tensor) -> Tensor:
    """Vectors, tokens or maps as rows (R, C) in float64, thinned evenly to at most ``SAMPLE``."""
    rows = to_rows(x.detach()).double()
    return rows[:: -(-len(rows) // SAMPLE)]


def gram_error(before: Tensor, after: Tensor) -> Tensor:
    """||K' - K|| / ||K|| of the Gram matrices K = Z Z^T of rows (R, C) ``before`` and (R, C') ``after``: a scalar."""
    a, b = before @ before.T, after @ after.T
    error: Tensor = (b - a).norm() / a.norm().clamp_min(1e-30)
    return error


def gram_angle(before: Tensor, after: Tensor) -> Tensor:
    """1 - <K, K'> / (||K|| ||K'||): the same, blind to a common factor; 0 to 1."""
    a, b = before @ before.T, after @ after.T
    angle: Tensor = 1.0 - (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30)
    return angle


def effective_rank(rows: Tensor) -> Tensor:
    """Of the centred rows (R, C): 1 to min(R - 1, C)."""
    return effective_rank_of(torch.linalg.svdvals(rows - rows.mean(0)))


def effective_rank_of(sigma: Tensor) -> Tensor:
    """exp of the entropy of sigma_i / sum sigma of singular values (K,): a scalar.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1.
    """
    p = sigma / sigma.sum().clamp_min(1e-30)
    rank: Tensor = torch.special.entr(p).sum().exp()
    return rank


@plugin
class Similarity(Plugin):
    """How well the projection keeps the similarities between the student's rows, link by link.

    ``gram_error`` and ``gram_angle`` compare the student's features as ``features`` has read them with what the
    projector made of them. ``rank`` is the effective rank of the former in the batch at hand.
    """

    requires = ("links",)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Holds the rows as read, until the step's scalars are asked for."""
        return Kept()

    @hookimpl
    def forward_completed(self, run: Run, step: Step) -> None:
        """Keep each link's student side before anything rewrites it."""
        step.module(self).rows = {name: link.student.detach() for name, link in step.links.items()}

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """The three measures; with several links, by the link's name."""
        found = {}
        for name, kept in step.module(self).rows.items():
            before, after = rows_of(kept), rows_of(step.links[name].student)
            end = "" if len(step.links) == 1 else f"/{name}"
            found[f"gram_error{end}"] = gram_error(before, after)
            found[f"gram_angle{end}"] = gram_angle(before, after)
            found[f"rank{end}"] = effective_rank(before)
        return found


class Kept(nn.Module):
    """Features of the step at hand; no part of the state."""

    rows: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.rows = {}


@plugin
class Rank(Plugin):
    """The effective rank of one of the student's layers in the batch at hand: runs without links have one, too."""

    layer: str
    pool: bool = True

    @hookimpl
    def add_taps(self, assembly: Assembly) -> list[Tap]:
        """The layer."""
        return [Tap("student", self.layer)]

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``rank``."""
        ((_, x),) = step.tapped("student", self.layer)
        return {"rank": effective_rank(rows_of(x.mean((2, 3)) if self.pool and x.ndim == 4 else x))}


@plugin
class GradientCosines(Plugin):
    """Which terms pull against each other: the cosine of their gradients with respect to the student's parameters.

    Each term as it is, unweighted: a positive factor changes no angle. A parameter that a term does not reach counts as 0.

    Options:
        every: steps between two measurements; each costs a backward pass for every term.
    """

    every: int = 10

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Holds the last measurement."""
        return Kept()

    @hookimpl
    def losses_computed(self, run: Run, step: Step) -> None:
        """Measure, before the step's own backward pass."""
        if step.iteration % self.every:
            return
        parameters = [p for p in run.student.parameters() if p.requires_grad]
        gradients = {name: _gradient(term, parameters) for name, term in step.losses.items() if term.requires_grad}
        step.module(self).rows = {
            f"{a}_and_{b}".replace("/", "-"): _cosine(gradients[a], gradients[b]) for a, b in combinations(gradients, 2)
        }

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``A_and_B``: of the last measurement."""
        return dict(step.module(self).rows)


def _gradient(term: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    parts = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(parts, parameters, strict=True)]
    )


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    cosine: Tensor = (a @ b) / (a.norm() * b.norm()).clamp_min(1e-30)
    return cosine
