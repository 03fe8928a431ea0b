"""The plugin: which side of which links is mapped, and when the maps go back to their manifold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillhouse import Assembly, Fault, Link, Plugin, Step, StillhouseError, StillhouseWarning, hookimpl, plugin
from stillhouse.errors import raise_faults
from stillhouse.layout import channels, full_precision
from stillhouse_projector.maps import Kind, OrthogonalMap, make_map
from stillhouse_projector.projectors import Projectors

__all__ = ["Projector"]


@plugin
class Projector(Plugin):
    """Map one side of every link into the other side's feature space.

    With ``side = "student"`` the student's features are mapped to the teacher's width (the traditional projection,
    and VkD's orthogonal one, 2403.06213); with ``side = "teacher"`` the teacher's are mapped to the student's (the
    inverted projection, 2403.14494). Maps are trained jointly with the student; no gradient is stopped.

    Options:
        kind: ``orthogonal``, ``linear`` or ``mlp``.
        side: which side of the link is mapped.
        links: glob over link names.
        map: how an orthogonal map is kept orthogonal: ``retraction``, ``matrix_exp`` or ``cayley``.
        hidden: the MLP's inner width; the larger of the two widths when left out.
    """

    requires = ("links",)

    kind: Kind = "orthogonal"
    side: Literal["student", "teacher"] = "student"
    links: str = "*"
    map: OrthogonalMap = "retraction"
    hidden: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise StillhouseError(f"must be >= 1, got {self.hidden}", where="hidden")
        if self.hidden is not None and self.kind != "mlp":
            self._warn(
                f"hidden = {self.hidden} has no effect with kind = {self.kind!r}: only an mlp has a hidden width"
            )
        if self.map != "retraction" and self.kind != "orthogonal":
            self._warn(f"map = {self.map!r} has no effect with kind = {self.kind!r}: only orthogonal maps need one")

    def _warn(self, text: str) -> None:
        warnings.warn(f"plugin {self.name or 'projector'!r}: {text}", StillhouseWarning, stacklevel=3)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """One map per link, from the shapes that reach this plugin.

        Raises:
            StillhouseError: an orthogonal map of the student would have to go down to fewer channels; every such link
                is named.
        """
        maps: dict[str, nn.Module] = {}
        widths: dict[str, int] = {}
        faults: list[Fault] = []
        for link in assembly.match(self.links):
            try:
                d_in, d_out = self._widths(link)
            except StillhouseError as error:
                faults += error.within(f"link {link.name!r}").faults
                continue
            maps[link.name] = make_map(self.kind, d_in, d_out, orthogonal_map=self.map, hidden=self.hidden)
            widths[link.name] = d_in
        raise_faults(faults)
        return Projectors(maps, widths)

    def _widths(self, link: Link) -> tuple[int, int]:
        student, teacher = channels(link.student), channels(link.teacher)
        if self.side == "teacher":
            # Wide or tall, both are well defined here: see the README on what each one means.
            return teacher, student
        if self.kind == "orthogonal" and teacher < student:
            raise StillhouseError(
                f"kind = 'orthogonal' needs a student of at most the teacher's {teacher} channels, got {student}: "
                "only an isometry keeps inner products",
                hint='side = "teacher" maps the teacher up instead, kind = "linear" allows any widths, or read a '
                "teacher layer that is wider",
            )
        return student, teacher

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> Mapping[str, Any]:
        """No weight decay: it would pull an orthogonal map off its manifold, or towards its start."""
        return {"weight_decay": 0.0}

    @hookimpl
    def transform(self, step: Step) -> None:
        """Replace the chosen side of each link by its image."""
        # Not by calling the module: with many links that takes as long as the maps. Each map is called as a module itself.
        project, links, side = step.module(self).project, step.match(self.links), self.side
        if torch.is_autocast_enabled(links[0].student.device.type):  # off in a run: by hand
            with full_precision(links[0].student):
                self.transform(step)
            return
        for link in links:
            if side == "student":
                link.student = project(link.name, link.student)
            else:
                link.teacher = project(link.name, link.teacher)

    def hears(self, hook: str) -> bool:
        """All hooks but, for maps that need none of it, those that keep a map orthogonal and measure how much it is."""
        return self.kind == "orthogonal" or hook not in ("optimizer_stepped", "scalars")

    @hookimpl
    def optimizer_stepped(self, step: Step) -> None:
        """Put retracted maps back on their manifold. Harmless where the optimizer left them alone."""
        step.module(self).retract()

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``orthogonality_error/LINK``: max |P^T P - I| of each orthogonal map."""
        errors: dict[str, Tensor] = step.module(self).measure_orthogonality_errors()
        return {f"orthogonality_error/{name}": error for name, error in errors.items()}
