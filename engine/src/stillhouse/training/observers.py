"""The engine's own observers of a run: who they are, and in which order they hear an event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from torch.optim import Optimizer

from stillhouse.config.recipe import Recipe
from stillhouse.contract.protocols import Named
from stillhouse.data.base import Data
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.loop.composition import Composition
from stillhouse.loop.stepper import Stepper
from stillhouse.registry.hooks import Hooks
from stillhouse.training.alarms import Alarms
from stillhouse.training.answers import Answers
from stillhouse.training.checkpoints import Checkpoints
from stillhouse.training.clock import Clock
from stillhouse.training.early_stopping import EarlyStopping
from stillhouse.training.ema import AveragedWeights
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.interruption import Interruption
from stillhouse.training.learning_rate import EpochRate, LearningRate
from stillhouse.training.loggers import Loggers, find_loggers
from stillhouse.training.one_class import OneClass
from stillhouse.training.optimizer_modes import OptimizerModes, has_modes
from stillhouse.training.predictions import Predictions
from stillhouse.training.preview import Preview
from stillhouse.training.progress import Progress
from stillhouse.training.scalars import StepScalars
from stillhouse.training.schedulers import Moves
from stillhouse.training.teacher_metrics import TeacherMetrics
from stillhouse.training.tensorboard import TensorBoard
from stillhouse.training.watching import Watching, find_watcher

__all__ = ["Observers", "build_observers"]


@attrs.frozen(eq=False, kw_only=True)
class Observers:
    """The observers, in the order in which they hear an event: after the plugins, before ignite's own handlers.

    Each hears through the hooks that any plugin has; what a recipe does not ask for is None.

    Attributes:
        ema: averages the weights as the plugins' ``optimizer_stepped`` have left them; or has the optimizer do so.
        scalars: reads what is logged of a step; its clock starts with the epoch.
        learning_rate: moves a schedule of steps on, once the step is logged with the rate that it had.
        interruption: hears of a signal that ends the process, before what is left at the end is measured.
        evaluation: measures an ended epoch after the plugins have had their last word on the student; the test split
            before they hear that the run is done.
        one_class: looks whether a single class was said throughout.
        epoch_rate: moves a schedule of epochs on, which may go by what has just been measured.
        early_stopping: looks at that as well.
        preview: keeps samples of the evaluation, and draws them.
        answers: counts what the last validation says, and shows it.
        predictions: keeps what is said of each test sample.
        teacher_metrics: has the teacher answer what the student is measured on, once.
        watcher: looks at what the plugins do, and raises alarms, which the next two show.
        tensorboard: writes scalars, metrics, figures and alarms.
        loggers: hand scalars and metrics on, before a checkpoint after which they would not come again.
        progress: shows steps, loss and score.
        checkpoints: last: it attaches itself when the run starts, so that what anybody's handlers change is in the file.
    """

    ema: AveragedWeights | OptimizerModes | None
    scalars: StepScalars
    learning_rate: LearningRate | None
    interruption: Interruption | None
    evaluation: Evaluation
    one_class: OneClass
    epoch_rate: EpochRate | None
    early_stopping: EarlyStopping | None
    preview: Preview | None
    answers: Answers | None
    predictions: Predictions | None
    teacher_metrics: TeacherMetrics | None
    watcher: Watching | None
    tensorboard: TensorBoard | None
    loggers: Loggers | None
    progress: Progress | None
    checkpoints: Checkpoints | None

    def __iter__(self) -> Iterator[Named]:
        """Those that are there, in order."""
        return (observer for observer in attrs.asdict(self, recurse=False).values() if observer is not None)

    @property
    def stopped(self) -> dict[str, Any] | None:
        """When and why early stopping ended the run; None where it did not."""
        return None if self.early_stopping is None else self.early_stopping.stopped

    def close(self) -> None:
        """Close what holds a file, the terminal or a signal, however the run has ended."""
        for observer in (self.interruption, self.progress, self.tensorboard, self.loggers, self.checkpoints):
            if observer is not None:
                observer.close()


def build_observers(
    recipe: Recipe,
    composition: Composition,
    data: Data,
    hooks: Hooks,
    optimizer: Optimizer,
    moves: Moves | None,
    stepper: Stepper,
    progress: Progress,
    folder: Path | None,
    clock: Clock,
) -> Observers:
    """The observers that ``recipe`` asks for; what writes is there in a run with a ``folder``.

    Raises:
        StillhouseError: an average is to be kept of a student whose optimizer keeps one; a logger that is not there.
    """
    student = composition.student
    ema: AveragedWeights | OptimizerModes | None = None
    if has_modes(optimizer):
        if recipe.ema is not None:
            what = f"no second average is kept: {recipe.optimizer.name} has one, which it is measured with"
            raise StillhouseError(what, where="ema", hint="leave the table out")
        ema = OptimizerModes(optimizer, student)
    elif recipe.ema is not None:
        ema = AveragedWeights(student, recipe.ema)
    evaluation = Evaluation(data, hooks, ema)
    stopping = None
    if recipe.early_stopping is not None:
        stopping = EarlyStopping(recipe.early_stopping, evaluation, progress)
    parts: dict[str, Any] = {"optimizer": optimizer, "ema": ema, "early_stopping": stopping}
    if moves is not None:
        parts["scheduler"] = moves.scheduler
    if stepper.scaler.is_enabled():
        parts["scaler"] = stepper.scaler
    parts = {name: part for name, part in parts.items() if part is not None}
    alarms = Alarms(progress)
    # A step that is compiled as a whole has no terms of its own, and no hooks to be timed.
    watcher = None if recipe.speed.compile == "step" else find_watcher(recipe.watch, clock, alarms)
    shows = folder is not None and parallel.is_first()
    draws = shows and recipe.run.figures
    answers = Answers() if draws else None
    shown = [observer for observer in (answers, watcher) if observer is not None]
    loggers = find_loggers(recipe.run.loggers)  # in every process, so that all of them refuse a wrong one
    checkpoints = None if folder is None else Checkpoints(folder, recipe.checkpoints, evaluation, parts)
    return Observers(
        ema=ema,
        scalars=StepScalars(recipe, data.steps_per_epoch, optimizer, hooks, stepper),
        learning_rate=LearningRate(moves) if moves is not None and moves.per == "step" else None,
        interruption=None if checkpoints is None else Interruption(checkpoints),
        evaluation=evaluation,
        one_class=OneClass(),
        epoch_rate=EpochRate(moves, evaluation) if moves is not None and moves.per == "epoch" else None,
        early_stopping=stopping,
        preview=Preview(composition, hooks) if draws else None,
        answers=answers,
        predictions=Predictions() if shows and recipe.run.keep_predictions else None,
        teacher_metrics=None if watcher is None else TeacherMetrics(composition, hooks),
        watcher=watcher,
        tensorboard=TensorBoard(hooks, alarms, shown, watched=watcher is not None) if shows else None,
        loggers=Loggers(loggers) if shows and loggers else None,
        progress=progress if progress.enabled else None,
        checkpoints=checkpoints,
    )
