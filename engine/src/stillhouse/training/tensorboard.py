"""TensorBoard: what is logged, measured and drawn, as events in the run's folder."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol
from warnings import warn

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.errors import StillhouseWarning, first_line
from stillhouse.registry.hooks import Hooks, named_values
from stillhouse.training.alarms import Alarms
from stillhouse.training.drawing import DrawingPace
from stillhouse.training.first_page import list_settings, make_layout, sort_results
from stillhouse.training.folder import RunFolder
from stillhouse.training.markdown import fence
from stillhouse.training.points import MOST, Points, is_checkpoint_due
from stillhouse.training.scalars import metric_tags
from stillhouse.training.teacher_metrics import TEACHERS_SPLIT

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LOOKED = "cost_ms_of_step/step"
"""A tag of a step that was looked at: the others have fewer."""

__all__ = ["Shown", "TensorBoard"]


class Shown(Protocol):
    """An observer that has more to show than scalars and figures."""

    def show(self, writer: SummaryWriter, run: Run) -> None:
        """Write it, at the end of the run."""


class TensorBoard:
    """Writes events with torch's writer. One that fails is told of once, and the run goes on without.

    Points are handed over in groups, and always before a checkpoint that comes after them is written.

    Args:
        hooks: whose ``figures`` are drawn at the end of an epoch.
        alarms: written as texts, once they have been raised.
        shown: have more to be shown than figures.
        watched: whether there are looks: the first page is written with what the first of them brings.
    """

    name = "tensorboard"

    def __init__(self, hooks: Hooks, alarms: Alarms, shown: Sequence[Shown] = (), *, watched: bool = False) -> None:
        self._hooks, self._alarms, self._shown = hooks, alarms, shown
        self._pace: DrawingPace | None = None
        self._writer: SummaryWriter | None = None
        self._waiting = Points()
        self._lays_out, self._watched = True, watched
        self._tags: Collection[str] = ()
        self._excepthook = threading.excepthook

    @hookimpl
    def started(self, run: Run) -> None:
        """Begin a file; events that a killed run has left of steps yet to come are hidden. A new run's texts are written."""
        assert run.folder is not None  # a run without one has no such observer
        folder, done = RunFolder(run.folder), run.trainer.state.iteration
        self._pace = DrawingPace(run.epochs) if run.recipe.run.figures else None
        with self._guarded():
            from torch.utils.tensorboard import SummaryWriter

            # The thread that writes keeps its error for who calls next, which is told of here, and raises it besides.
            self._excepthook, threading.excepthook = threading.excepthook, self._pass_over
            self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1, max_queue=2 * MOST)
            if done == 0:
                self._writer.add_text("recipe", fence(run.recipe.to_toml()))
                self._writer.add_text("composition", fence(folder.composition.read_text(encoding="utf-8")))

    @hookimpl
    def logged(self, run: Run, step: Step, scalars: Mapping[str, float]) -> None:
        """Write the step's scalars under their tags."""
        self._add_scalars(scalars, step.iteration + 1)
        self._tags = scalars
        if self._lays_out and _LOOKED in scalars:
            self._lay_out(run, scalars)
        self._add_alarms()
        if is_checkpoint_due(run, step):
            self._hand_over()

    @hookimpl
    def evaluated(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """Write the split's metrics; the teacher's, which stay as they are, beside each of the student's."""
        if split == TEACHERS_SPLIT:
            return
        beside = run.metrics.get(TEACHERS_SPLIT, {}) if split == "val" else {}
        found = metric_tags({split: metrics, TEACHERS_SPLIT: beside})
        self._add_scalars(found, run.trainer.state.iteration)
        self._add_alarms()

    @hookimpl
    def epoch_completed(self, run: Run) -> None:
        """Draw the figures of task and plugins, where it is time to."""
        self._hand_over()
        if self._lays_out and not self._watched:
            self._lay_out(run, self._tags)
        if self._pace is not None and self._pace.is_due(run.trainer.state.epoch):
            self._draw(run)

    def _lay_out(self, run: Run, tags: Collection[str]) -> None:
        """Write the first page, once: TensorBoard reads the first that it finds."""
        self._lays_out = False
        if self._writer is not None:
            with self._guarded():
                self._writer.add_custom_scalars(make_layout(run.task.score, tags))

    def _draw(self, run: Run) -> None:
        if self._writer is None or self._pace is None:
            return
        iteration = run.trainer.state.iteration
        with self._pace.drawing(iteration):
            drawn = {
                f"{owner.name}/{name}": figure
                for owner, figures in self._hooks.calls("figures")
                for name, figure in named_values(owner, "figures", figures, run).items()
            }
            with self._guarded():
                for tag, figure in drawn.items():
                    self._writer.add_figure(tag, figure, iteration, close=True)

    @hookimpl
    def completed(self, run: Run) -> None:
        """Draw what was not after the last epoch, and write the run's settings and results for TensorBoard's HPARAMS page."""
        if self._pace is not None and self._pace.drawn_at != run.trainer.state.iteration:
            self._draw(run)
        if self._writer is None:
            return
        if self._lays_out:
            self._lay_out(run, self._tags)
        if run.recipe.run.figures:
            self._show(run)
        if self._writer is None:  # it failed on the way, and has said so
            return
        with self._guarded():
            from torch.utils.tensorboard.summary import hparams

            # Not add_hparams, which writes every metric once more, as a curve of one point in a file of its own.
            events = self._writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch gives it no types
            results = sort_results(metric_tags(run.metrics), run.task.score)
            for summary in hparams(list_settings(run), results):  # type: ignore[no-untyped-call]  # likewise
                events.add_summary(summary)

    def _show(self, run: Run) -> None:
        with self._guarded():
            assert self._writer is not None  # or nobody asks
            for source in self._shown:
                source.show(self._writer, run)

    def close(self) -> None:
        """Write what is buffered and close."""
        self._hand_over()
        if self._writer is not None:
            with self._guarded():
                self._writer.close()
        self._writer = None
        if threading.excepthook == self._pass_over:
            threading.excepthook = self._excepthook

    def _pass_over(self, failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            self._excepthook(failed)

    def _add_scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        if self._writer is None:
            return
        if self._waiting.add(iteration, scalars):
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer what is collected."""
        points = self._waiting.take()
        if self._writer is None or not points:
            return
        with self._guarded():
            from tensorboard.compat.proto.summary_pb2 import Summary

            events = self._writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch gives it no types
            for iteration, scalars, at in points:
                # One event with all of them: torch's add_scalar makes one each, and takes six times as long.
                values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
                events.add_summary(Summary(value=values), iteration, at)

    def _add_alarms(self) -> None:
        for alarm in self._alarms.take_new():
            if self._writer is not None:
                with self._guarded():
                    self._writer.add_text("alarms", f"**{alarm.what}**\n\n{alarm.advice}", alarm.step)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Warn of an error in the block, and write nothing more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a full disk, a package that is half there: what it is, the warning says
            if self._writer is not None:
                with suppress(Exception):  # it has failed already
                    self._writer.close()
            self._writer = None
            warn(
                f"TensorBoard's events cannot be written, and the run goes on without: {first_line(error)}",
                StillhouseWarning,
                stacklevel=2,
            )
