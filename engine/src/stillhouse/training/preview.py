"""A few validation samples with what the student makes of them, kept during the evaluation to be drawn after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.contract.task import Task
from stillhouse.nested import map_tensors, slice_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SAMPLES", "TIMES", "Preview"]

SAMPLES = 4
"""How many samples are drawn."""
TIMES = 20
"""In how many of a run's epochs, about: a picture takes up to half a second, and so does a short epoch."""


class Preview:
    """Keeps the first samples of a validation, where the task draws any: after up to 20 epochs of a run, evenly spaced.

    Args:
        split: whose samples are kept.
    """

    name = "task"
    """Before the figures' names: they are the task's."""

    def __init__(self, split: str = "val") -> None:
        self._split = split
        self._kept: dict[str, Any] | None = None

    @hookimpl
    def started(self, run: Run) -> None:
        """Look at the first batch of each evaluation."""
        if type(run.task).figures is not Task.figures:
            run.evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: self._keep(run))

    def _keep(self, run: Run) -> None:
        state: Any = run.evaluator.state
        epoch, every = run.trainer.state.epoch, -(-run.epochs // TIMES)
        if state.split == self._split and (epoch % every == 0 or epoch == run.epochs):
            kept = slice_rows(state.output, slice(SAMPLES), len(state.output["input"]))
            self._kept = map_tensors(lambda x: x.detach().cpu(), kept)

    @hookimpl
    def figures(self, run: Run) -> dict[str, Figure]:
        """The task's figures of the samples that were kept last, by name; they are let go."""
        kept, self._kept = self._kept, None
        if kept is None:
            return {}
        with torch.no_grad():
            return run.task.figures(run.data, kept["input"], kept["output"], kept["target"])
