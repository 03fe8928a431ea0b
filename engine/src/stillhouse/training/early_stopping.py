"""Early stopping: ends a run whose validation score has not improved for a while, and remembers when and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.config.run_options import EarlyStoppingSpec
from stillhouse.contract.assembly import Facts
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.protocols import ProgressReport
from stillhouse.contract.run import Run
from stillhouse.errors import StillhouseError
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.score import RunningBest, find_score

__all__ = ["EarlyStopping", "check_stopping"]


def check_stopping(spec: EarlyStoppingSpec | None, facts: Facts) -> None:
    """Refuse early stopping where there is nothing to go by.

    Raises:
        StillhouseError: the data has no validation split.
    """
    if spec is not None and not facts.data.sizes.get("val"):
        raise StillhouseError(
            "goes by the score of the validation split, and the data has none",
            where="early_stopping",
            hint="[data] val_fraction, or leave the table out",
        )


class EarlyStopping:
    """Ends the training when the validation score has not improved in ``patience`` measurements of it.

    How long it has not follows from the history of the run, so that a resumed run counts on.

    Args:
        spec: when.
        evaluation: whose history is looked at.
        progress: where it says that it has ended the run.

    Attributes:
        stopped: ``{"epoch": ..., "step": ..., "reason": ...}`` once it has ended the run; None before.
    """

    name = "early stopping"

    def __init__(self, spec: EarlyStoppingSpec, evaluation: Evaluation, progress: ProgressReport) -> None:
        self._spec, self._evaluation, self._progress = spec, evaluation, progress
        self.stopped: dict[str, Any] | None = None
        self._from = 0

    @hookimpl
    def started(self, run: Run) -> None:
        """Count from the beginning of the history, which a resumed run has of the one before."""
        self._best = RunningBest(run, self._spec.min_delta, cumulative=self._spec.cumulative)

    @hookimpl
    def epoch_completed(self, run: Run) -> None:
        """Look at the epoch's validation score. ignite ends the run after all handlers of the epoch's end."""
        if not self._evaluation.is_fresh(run):
            return
        spec, score = self._spec, find_score(run.recipe.checkpoints, run.task).name
        history = self._evaluation.history
        here = sum(1 for metrics in history[self._from :] if metrics)
        if min(self._best.of(history).waited, here) < spec.patience:
            return
        better = f" by more than {spec.min_delta:g}" if spec.min_delta else ""
        unit = "epoch" if run.recipe.run.validate_every == 1 else "measurement"
        waited = f"{spec.patience} {unit}{'s' if spec.patience > 1 else ''}"
        self.stopped = {
            "epoch": run.trainer.state.epoch,
            "step": run.trainer.state.iteration,
            "reason": f"val/{score} has not improved{better} for {waited}",
        }
        run.trainer.terminate()

    @hookimpl
    def completed(self, run: Run) -> None:
        """Say that the run has ended early, and why."""
        if self.stopped is not None:
            self._progress.say(
                f"{run.recipe.run.name}: ended after epoch {self.stopped['epoch']}: {self.stopped['reason']}"
            )

    def state_dict(self) -> dict[str, Any]:
        """When and why the run was ended; a checkpoint's ``early_stopping``."""
        return {"stopped": self.stopped, "from": self._from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember whether the run was ended."""
        self.stopped, self._from = state["stopped"], int(state.get("from", 0))

    def wait_from(self, epochs: int) -> None:
        """Count no epoch as waited for that a parent of the run has had."""
        self._from = epochs
