"""OFD: a comprehensive overhaul of feature distillation (Heo et al. 2019, 1904.01866)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.layers import split_layer
from stillhouse.layout import channels, from_rows, to_rows
from stillhouse_classics.links import PROJECTIONS, LinkedMap, build_for_links, check_shapes, give_terms

__all__ = ["FeatureOverhaul", "find_margins", "partial_distance"]


def partial_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over elements of (t - s)^2, which is 0 where s <= t <= 0: equation 4, whose sum is a mean here [choice].

    Args:
        student: features at the teacher's width.
        teacher: of the same shape, after its margin ReLU.

    Raises:
        StillhouseError: the shapes differ.
    """
    check_shapes(student, teacher)
    idle = (student <= teacher) & (teacher <= 0)
    return (teacher - student).square().masked_fill(idle, 0.0).mean()


def find_margins(shift: Tensor, scale: Tensor) -> Tensor:
    """The expectation of a channel where it is negative, for what a BatchNorm with ``shift`` and ``scale`` (C,) gives.

    Equation 3 for a Gaussian: m = b - |g| phi(b/|g|) / Phi(-b/|g|). Where it is hardly ever negative, by 1 in 1,000,
    -3 |g|, as in the authors' code.
    """
    mean, deviation = shift.double(), scale.double().abs().clamp(min=1e-12)
    z = mean / deviation
    below = torch.special.ndtr(-z)
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    found = mean - deviation * density / below.clamp(min=1e-12)
    return torch.where(below > 0.001, found, -3 * deviation).to(shift.dtype)


class Margins(LinkedMap):
    """The student's map, and the margin of each of the teacher's channels: given, or the mean of what was negative.

    Attributes:
        total: sum of the negative responses of each channel (C,); with given margins the margins.
        count: how many there were (C,); with given margins 1.
    """

    total: Tensor
    count: Tensor

    def __init__(self, student: Tensor, teacher: Tensor, margins: Tensor | None) -> None:
        super().__init__(student, teacher)
        width = channels(teacher)
        if margins is not None and len(margins) != width:
            raise StillhouseError(
                f"the norm has {len(margins)} channels, and the teacher's layer {width}", where="norms"
            )
        self.given = margins is not None
        self.register_buffer("total", torch.zeros(width) if margins is None else margins.clone())
        self.register_buffer("count", torch.ones(width) * float(self.given))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one link -> their partial distance."""
        rows = to_rows(teacher)
        if not self.given:
            with torch.no_grad():
                self.total.add_(rows.clamp(max=0).sum(0))
                self.count.add_((rows < 0).sum(0))
        margins = self.total / self.count.clamp(min=1)
        return partial_distance(self.map(student), from_rows(torch.maximum(rows, margins), teacher))


@plugin
class FeatureOverhaul(Plugin):
    """Match features before the activation, and leave alone what is off in both networks.

    Source: 1904.01866, equations 3 and 4, on each link; the student's map is linear with BatchNorm. The links' layers
    are those before the ReLU. With ``norms`` the margins are the authors', by the BatchNorm's parameters; without, the
    mean of what has been negative in each channel so far [choice]. The paper divides earlier layers' losses by powers of
    two: list the plugin for each layer with its weight.

    Attributes:
        links: glob over link names.
        norms: the teacher's BatchNorm layers whose outputs the links read, one for each link in order.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    norms: tuple[str, ...] = ()
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A map and margins for each link.

        Raises:
            StillhouseError: ``norms`` are not one BatchNorm for each link.
        """
        links = assembly.match(self.links)
        if self.norms and len(self.norms) != len(links):
            raise StillhouseError(
                f"must name one layer for each of the {len(links)} links, got {len(self.norms)}", where="norms"
            )
        margins = iter([_read_norm(assembly, name) for name in self.norms] or [None] * len(links))
        return build_for_links(assembly, self.links, lambda s, t: Margins(s, t, next(margins)))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The partial distance of each link."""
        return give_terms(step.match(self.links), *step.module(self))


def _read_norm(assembly: Assembly, pattern: str) -> Tensor | None:
    """The margins of the teacher's BatchNorm ``pattern``; None in a run that is loaded, whose checkpoint has them."""
    if assembly.teacher is None:
        return None
    (path, *more) = assembly.layers("teacher", pattern)
    name, own = split_layer("teacher", path)
    layer = assembly.all_teachers[name].get_submodule(own)
    shift, scale = getattr(layer, "bias", None), getattr(layer, "weight", None)
    if more or not (isinstance(shift, Tensor) and isinstance(scale, Tensor) and shift.shape == scale.shape):
        raise StillhouseError(
            f"{pattern!r} must be one BatchNorm with scale and shift, got {type(layer).__name__}", where="norms"
        )
    return find_margins(shift.detach(), scale.detach()).cpu()
