"""Pairs of features: their layouts, and a loss term for each link."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stillhouse import Assembly, Fault, Link, StillhouseError
from stillhouse.errors import raise_faults
from stillhouse.layout import channels, format_shape, map_rows, name_layout

__all__ = [
    "PROJECTIONS",
    "ChannelMap",
    "LinkedMap",
    "build_for_links",
    "check_batches",
    "check_maps",
    "check_positions",
    "check_shapes",
    "flatten_samples",
    "give_terms",
    "to_positions",
    "widen",
]

PROJECTIONS = ("normalizer", "projector")
"""Kinds that rewrite links: a plugin whose module is made for the links' widths is built after them."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(student, teacher) -> scalar`` of one link."""


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 or wider: methods are computed there, whatever autocast says."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def flatten_samples(x: Tensor) -> Tensor:
    """Vectors (B, C), tokens (B, N, C) or maps (B, C, H, W) as one vector a sample (B, D)."""
    name_layout(x)
    return x.flatten(1)


def to_positions(x: Tensor) -> Tensor:
    """Vectors (B, C), tokens (B, N, C) or maps (B, C, H, W) as channels over positions (B, C, P); vectors have P = 1."""
    name_layout(x)
    if x.ndim == 3:
        return x.transpose(1, 2)
    return x.flatten(2) if x.ndim == 4 else x[:, :, None]


class ChannelMap(nn.Module):
    """A linear map of channels, at each position alike: a 1x1 convolution on maps, with a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear: nn.Module = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs), (B, N, inputs) or (B, inputs, H, W) -> the same with ``outputs`` channels."""
        return map_rows(self.linear, x)


class LinkedMap(nn.Module):
    """The student's features of a link at the teacher's width: a linear map of channels with BatchNorm over all rows."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        check_positions(student, teacher)
        inputs, outputs = channels(student), channels(teacher)
        self.map = ChannelMap(inputs, outputs)
        self.map.linear = nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs))

    def with_loss(self, loss: Loss) -> Loss:
        """``loss`` of the mapped student's features and of the teacher's."""
        return lambda student, teacher: loss(self.map(student), teacher)


def check_batches(student: Tensor, teacher: Tensor) -> None:
    """Raise a StillhouseError where the two sides are not of the same samples (B, ...)."""
    if student.shape[:1] != teacher.shape[:1]:
        raise StillhouseError(
            f"both sides must be of the same samples, got {format_shape(student)} and {format_shape(teacher)}"
        )


def check_positions(student: Tensor, teacher: Tensor) -> None:
    """Raise a StillhouseError where the two sides differ in anything but channels."""
    if to_positions(student).shape[::2] != to_positions(teacher).shape[::2]:
        raise StillhouseError(
            f"both sides must have as many positions, got {format_shape(student)} and {format_shape(teacher)}",
            hint='features with pool = "none" interpolates the teacher to the student\'s grid',
        )


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raise a StillhouseError where the two sides differ in shape."""
    check_positions(student, teacher)
    if channels(student) != channels(teacher):
        raise StillhouseError(
            f"both sides must have as many channels, got {channels(student)} and {channels(teacher)}",
            hint='list projector with kind = "linear", or read layers of one width',
        )


def check_maps(*sides: Tensor) -> None:
    """Raise a StillhouseError where a side is no map."""
    for x in sides:
        if x.ndim != 4:
            raise StillhouseError(
                f"needs maps (B, C, H, W), got {format_shape(x)}", hint='read the layers with pool = "none"'
            )


def give_terms(links: Sequence[Link], *losses: Loss) -> dict[str, Tensor]:
    """The loss of each link: under ``""`` where there is one, else under its name, with dots for slashes.

    Both sides are widened to float32 first.

    Args:
        links: the pairs.
        losses: one function for all links, or one for each in order.

    Raises:
        StillhouseError: with the faults of every link that does not fit.
    """
    terms: dict[str, Tensor] = {}
    faults: list[Fault] = []
    for link, loss in zip(links, losses * len(links) if len(losses) == 1 else losses, strict=True):
        name = "" if len(links) == 1 else link.name.replace("/", ".")
        try:
            terms[name] = loss(widen(link.student), widen(link.teacher))
        except StillhouseError as error:
            faults += error.within(f"link {link.name!r}").faults
    raise_faults(faults)
    return terms


def build_for_links(assembly: Assembly, pattern: str, make: Callable[[Tensor, Tensor], nn.Module]) -> nn.ModuleList:
    """One module for each link that ``pattern`` matches, in order, made for the shapes that reach the plugin.

    Raises:
        StillhouseError: no link matches, or with the faults of every link that ``make`` refuses.
    """
    made = nn.ModuleList()
    faults: list[Fault] = []
    for link in assembly.match(pattern):
        try:
            made.append(make(link.student, link.teacher))
        except StillhouseError as error:
            faults += error.within(f"link {link.name!r}").faults
    raise_faults(faults)
    return made
