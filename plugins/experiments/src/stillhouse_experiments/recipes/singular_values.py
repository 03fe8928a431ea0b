"""An observer, which changes nothing, of what a projection does to features while it is trained."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from stillhouse import Plugin, Run, Step, StillhouseError, hookimpl, plugin
from stillhouse.layout import to_rows

FILE = "singular-values.jsonl"
"""In the run's folder: one JSON object a line."""


@plugin
class SingularValues(Plugin):
    """Write the singular values of the projected side of the first link, of that side before, and of P itself.

    Rows are the batch's samples x positions, uncentred. A line is written before the first step, then every so many.

    Attributes:
        side: which side is projected, as the projector's option says.
        every: steps between two lines.
    """

    requires = ("links", "projector")
    after = ("projector",)

    side: str = "teacher"
    every: int = 10

    @hookimpl
    def started(self, run: Run) -> None:
        """Begin the file anew, unless the run goes on."""
        if run.writes and run.folder is not None and run.trainer.state.iteration == 0:
            (run.folder / FILE).unlink(missing_ok=True)

    @hookimpl
    def losses_computed(self, run: Run, step: Step) -> None:
        """The links are as the projector has left them; P is as the last step has left it."""
        if not run.writes or run.folder is None or step.iteration % self.every:
            return
        (link, *others) = step.links.values()
        if others:
            raise StillhouseError("more links than one", where=f"plugin {self.name!r}")
        projector = next(p for p in run.plugins if type(p).__name__ == "Projector")
        weights = [p.detach() for p in step.module(projector).parameters()]
        side = link.teacher if self.side == "teacher" else link.student
        line: dict[str, Any] = {"step": step.iteration, "projected": _values(to_rows(side.detach()))}
        if len(weights) == 1:
            line["map"] = _values(weights[0])
            tapped = step.teacher if self.side == "teacher" else step.student
            assert tapped is not None
            (features,) = tapped.features.values()
            line["before"] = _values(to_rows(features.detach()))
        with (run.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _values(rows: Tensor) -> list[float]:
    return [round(v, 6) for v in torch.linalg.svdvals(rows.double()).tolist()]
