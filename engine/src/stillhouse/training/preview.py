"""A few validation samples with what the student makes of them, kept during the evaluation to be drawn after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events

from stillhouse.contract.run import Run
from stillhouse.contract.task import Task
from stillhouse.nested import over_tensors, rows_of

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
        run: with its evaluator, to which this attaches itself.
        split: whose samples are kept.
    """

    def __init__(self, run: Run, split: str = "val") -> None:
        self._run, self._split = run, split
        self._kept: dict[str, Any] | None = None
        self._every = -(-run.epochs // TIMES)
        if type(run.task).figures is not Task.figures:
            run.evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._keep)

    def _keep(self) -> None:
        state: Any = self._run.evaluator.state
        epoch = self._run.trainer.state.epoch
        if state.split == self._split and (epoch % self._every == 0 or epoch == self._run.epochs):
            kept = rows_of(state.output, slice(SAMPLES), len(state.output["input"]))
            self._kept = over_tensors(lambda x: x.detach().cpu(), kept)

    def figures(self) -> dict[str, Figure]:
        """The task's figures of the samples that were kept last, by name; they are let go."""
        kept, self._kept = self._kept, None
        if kept is None:
            return {}
        with torch.no_grad():
            return self._run.task.figures(self._run.data, kept["input"], kept["output"], kept["target"])
