"""The plugin: taps, links and their distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from stillhouse import Fault, Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.step import LinkSpec, Step, Tap
from stillhouse.errors import raise_faults
from stillhouse_features.alignment import make_reader
from stillhouse_features.distances import distance
from stillhouse_features.options import LinkOptions
from stillhouse_features.pairs import resolve_links

__all__ = ["Features"]


@plugin
class Features(Plugin):
    """Pair student with teacher features, pool them, and pull the student's towards the teacher's.

    The links come first in a recipe's list; plugins after it (normalizer, projector, ...) rewrite them, and the
    distance is taken last, on this plugin's own links alone. Source: hint layers, FitNets (1412.6550); pooling as in
    VkD (2403.06213: mean of patch tokens, spatial mean).

    Attributes:
        links: at least one pair of layers or of globs.
        distance: ``mse``, ``smooth_l1``, ``cosine``; ``none`` makes the links and leaves the distance to others.
        beta: where ``smooth_l1`` goes from quadratic to linear.
        weight: the factor of *each* link's term. The terms are summed, not averaged: twice the links pull twice.
    """

    requires = ("teacher",)
    provides = ("links",)
    example: ClassVar[Mapping[str, Any]] = {"links": [{"student": "stage3", "teacher": "stage3"}]}
    shorthand = "distance"

    links: tuple[LinkOptions, ...]
    distance: Literal["mse", "smooth_l1", "cosine", "none"] = "mse"
    beta: float = 1.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        faults = []
        if not self.links:
            faults.append(
                Fault("links", "needs at least one link", 'links = [{ student = "stage3", teacher = "stage3" }]')
            )
        if not 0.0 <= self.beta < float("inf"):
            faults.append(Fault("beta", f"must be finite and >= 0, got {self.beta}"))
        raise_faults(faults)

    @hookimpl
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """Both layers of every pair. Raises all faults of all links at once."""
        return [
            tap
            for pair in resolve_links(assembly, self.links)
            for tap in (Tap("student", pair.student), Tap("teacher", pair.teacher))
        ]

    @hookimpl
    def add_links(self, assembly: Assembly) -> Iterable[LinkSpec]:
        """One link per pair; its ``read`` pools and, where positions are kept, interpolates the teacher's map."""
        return [
            LinkSpec(pair.name, pair.student, pair.teacher, make_reader(pair.options))
            for pair in resolve_links(assembly, self.links)
        ]

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of each own link: ``""`` where there is one, else by the link's name.

        Raises:
            StillhouseError: with every link whose two sides differ in shape.
        """
        if self.distance == "none":
            return {}
        links = step.links_of(self)
        if len(links) == 1:
            (link,) = links
            try:
                return {"": distance(link.student, link.teacher, self.distance, beta=self.beta)}
            except StillhouseError as error:
                raise error.within(f"link {link.name!r}") from None
        terms: dict[str, Tensor] = {}
        faults: list[Fault] = []
        kind, beta, prefix = self.distance, self.beta, len(self.name) + 1
        for link in links:
            try:
                terms[link.name[prefix:]] = distance(link.student, link.teacher, kind, beta=beta)
            except StillhouseError as error:
                faults += error.within(f"link {link.name!r}").faults
        raise_faults(faults)
        return terms
