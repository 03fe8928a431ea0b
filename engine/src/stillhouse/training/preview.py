"""A few validation samples with what student and teacher make of them, kept during the evaluation to be drawn after it."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events

from stillhouse import seeds as rng
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.contract.task import Task
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import is_sharded
from stillhouse.errors import StillhouseWarning
from stillhouse.loop.composition import Composition
from stillhouse.nested import map_tensors
from stillhouse.registry.hooks import Hooks
from stillhouse.training.spread import Spread
from stillhouse.training.teacher_metrics import find_teacher

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SAMPLES", "Preview"]

SAMPLES = 4
"""How many samples are drawn."""


class Preview:
    """Keeps samples spread over a validation, where the task draws any; the teacher is asked once they are drawn.

    Pictures are drawn in the first process alone, at times of its own. So a teacher that is spread over the processes, whose
    call waits for all of them, is not asked, and a warning says so.

    Args:
        composition: has the teacher.
        hooks: of plugins, one of which may answer in the teacher's place.
        split: whose samples are kept.
    """

    name = "task"
    """Before the figures' names: they are the task's."""

    def __init__(self, composition: Composition, hooks: Hooks, split: str = "val") -> None:
        self._teacher, self._split = find_teacher(composition, hooks), split
        self._spread = Spread(SAMPLES)
        self._warned = False

    @hookimpl
    def started(self, run: Run) -> None:
        """Look at the batches of each evaluation."""
        if type(run.task).figures is not Task.figures:
            run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: self._keep(run))

    def _keep(self, run: Run) -> None:
        state: Any = run.evaluator.state
        if state.split == self._split:
            kept = {name: state.output[name] for name in ("input", "output", "target")}
            if state.iteration == 1:
                self._spread.begin()
            self._spread.take_in(-(-run.data.sizes[self._split] // parallel.count_launched()), kept)

    @hookimpl
    def figures(self, run: Run) -> dict[str, Figure]:
        """The task's figures of the samples that were kept last, by name; they are let go."""
        kept = self._spread.take_out()
        if kept is None:
            return {}
        shown: dict[str, Any] = {"inputs": kept["input"], "output": kept["output"], "targets": kept["target"]}
        # A task of an earlier version does not take the teacher's.
        if "teacher" in inspect.signature(run.task.figures).parameters:
            shown["teacher"] = self._ask_teacher(run, kept["input"])
        with torch.no_grad():
            return run.task.figures(run.data, **shown)

    def _ask_teacher(self, run: Run, inputs: Any) -> Any:
        if self._teacher is None or self._teacher.model is None:
            return None
        if is_sharded(self._teacher.model):
            if not self._warned:
                what = "pictures are without the teacher's answers: it is spread over the processes, and one draws them"
                warnings.warn(f"{run.recipe.run.name}: {what}", StillhouseWarning, stacklevel=2)
            self._warned = True
            return None
        try:
            with rng.preserve_state():
                output = self._teacher(map_tensors(lambda x: x.to(run.device), inputs)).output
        except Exception:  # noqa: BLE001 - one of other inputs, or of answers that only training asks for: nothing to show
            return None
        return map_tensors(lambda x: x.detach().cpu(), output)
