"""What the teacher itself scores: its metrics on the validation samples, measured once, beside the student's first ones."""

from __future__ import annotations

import warnings
from typing import Any

from ignite.engine import Events

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.errors import StillhouseWarning
from stillhouse.loop.composition import Composition
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.registry.hooks import Hooks, emit
from stillhouse.training.output_metrics import OutputMetrics

__all__ = ["TEACHERS_SPLIT", "TeacherMetrics", "find_teacher"]

TEACHERS_SPLIT = "val_teacher"


def find_teacher(composition: Composition, hooks: Hooks) -> TappedModel | None:
    """The teacher, if a plugin reads it and none answers in its place; its model may leave memory later on."""
    asked = composition.reads_teacher and not hooks.calls("teacher_forward")
    return composition.models.get("teacher") if asked else None


class TeacherMetrics:
    """Has the teacher answer the batches of the first validation, and tells of its metrics through ``evaluated``.

    No batch is read a second time. Nothing is told where the teacher has left memory, where no plugin reads it or one
    answers in its place, or where the task's metrics have no use for what it gives.

    Args:
        composition: has the teacher, and calls it as the steps do.
        hooks: whose ``evaluated`` is called.
    """

    name = "teacher metrics"

    def __init__(self, composition: Composition, hooks: Hooks) -> None:
        self._teacher = find_teacher(composition, hooks)
        self._hooks = hooks
        self._metrics = OutputMetrics({})
        self._remove: Any = None

    @hookimpl
    def started(self, run: Run) -> None:
        """Listen to the next validation, if there is a teacher to be asked."""
        if self._teacher is None or self._teacher.model is None:
            return
        self._metrics = OutputMetrics(run.task.metrics(run.data))
        self._remove = run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._take_in)

    def _take_in(self, evaluator: Any) -> None:
        if evaluator.state.split != "val" or self._teacher is None:
            return
        seen = evaluator.state.output
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", StillhouseWarning)  # whose classes are a guess: no score to go by
                answer = self._teacher(seen["input"]).output
        except Exception:  # noqa: BLE001 - a teacher of other classes, or of another task: there is no answer to measure
            self._stop()
            return
        self._metrics.take_in(answer, seen["target"], seen["input"])

    @hookimpl
    def evaluated(self, run: Run, split: str) -> None:
        """Tell of the teacher's metrics, after the first validation."""
        if split != "val" or self._remove is None:
            return
        self._stop()
        found = self._metrics.compute()
        if found:
            dict.__setitem__(run.metrics, TEACHERS_SPLIT, found)
            calls = self._hooks.calls("evaluated", run=run)
            emit(calls, "evaluated", lambda: f"split {TEACHERS_SPLIT!r}", TEACHERS_SPLIT, found)

    def _stop(self) -> None:
        if self._remove is not None:
            self._remove.remove()
        self._remove = None
