"""Early stopping: ignite's EarlyStopping on the task's score, with a memory of when it ended the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ignite.handlers import EarlyStopping

from stillhouse.config.run_options import EarlyStoppingSpec
from stillhouse.contract.assembly import Facts
from stillhouse.contract.run import Run
from stillhouse.errors import StillhouseError

__all__ = ["Stopping", "check_stopping"]


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


class Stopping:
    """Ends the training when the validation score has not improved in ``patience`` measurements of it.

    Args:
        spec: when.
        run: with its trainer, whose metrics of ``val`` are looked at.

    Attributes:
        stopped: ``{"epoch": ..., "step": ..., "reason": ...}`` once it has ended the run; None before.
    """

    def __init__(self, spec: EarlyStoppingSpec, run: Run) -> None:
        self._spec, self._run = spec, run
        self.stopped: dict[str, Any] | None = None
        # By position: ignite renamed min_delta and cumulative_delta.
        self._handler = EarlyStopping(spec.patience, self._score, run.trainer, spec.min_delta, spec.cumulative)
        self._handler.logger.setLevel(logging.WARNING)  # the run says itself that it was ended, and why

    def _score(self, _engine: Any) -> float:
        task = self._run.task
        value = self._run.metrics["val"].get(task.score)
        if value is None:
            known = ", ".join(self._run.metrics["val"])
            raise StillhouseError(
                f"goes by the task's score {task.score!r}, which is not among its metrics",
                where="early_stopping",
                hint=f"measured: {known}",
            )
        return value if task.score_mode == "max" else -value

    def after_epoch(self) -> None:
        """Look at the epoch's validation score. ignite ends the run after all handlers of the epoch's end."""
        self._handler(self._run.trainer)
        if self._handler.counter >= self._spec.patience:
            score, state = self._run.task.score, self._run.trainer.state
            better = f" by more than {self._spec.min_delta:g}" if self._spec.min_delta else ""
            unit = "epoch" if self._run.recipe.run.validate_every == 1 else "measurement"
            waited = f"{self._spec.patience} {unit}{'s' if self._spec.patience > 1 else ''}"
            self.stopped = {
                "epoch": state.epoch,
                "step": state.iteration,
                "reason": f"val/{score} has not improved{better} for {waited}",
            }

    def state_dict(self) -> dict[str, Any]:
        """ignite's count and best score, and when the run was ended; a checkpoint's ``early_stopping``."""
        return {"handler": dict(self._handler.state_dict()), "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a saved state."""
        self._handler.load_state_dict(state["handler"])
        self.stopped = state["stopped"]
