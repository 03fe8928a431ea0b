"""The test split's predictions, kept beside a run's summary: a class for each sample, in the order of the split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor

from stillhouse.contract.assembly import Facts
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.files import replacing
from stillhouse.training.folder import RunFolder

__all__ = ["Predictions", "check_predictions"]


def check_predictions(facts: Facts) -> None:
    """Refuse to keep what is no class a sample, or what no process has as a whole.

    Raises:
        StillhouseError: another task, or several processes.
    """
    if not facts.recipe.run.keep_predictions:
        return
    where = "run.keep_predictions"
    if not facts.task.takes_logits or facts.data.target_shape != ():
        raise StillhouseError(
            "keeps the predictions of tasks with one class a sample alone", where=where, hint="leave it out"
        )
    if parallel.is_distributed():
        raise StillhouseError("keeps the predictions of a run of one process alone", where=where, hint="leave it out")


class Predictions:
    """Keeps the class that the student finds most likely in each test sample, and the true one, of the last measurement."""

    name = "predictions"

    def __init__(self) -> None:
        self._found: list[Tensor] = []
        self._true: list[Tensor] = []

    @hookimpl
    def started(self, run: Run) -> None:
        """Listen to what is measured."""
        run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: self._listen(run.evaluator.state))

    def _listen(self, state: Any) -> None:
        if state.split != "test":
            return
        if state.iteration == 1:
            self._found, self._true = [], []
        self._found.append(state.output["output"].argmax(1))
        self._true.append(state.output["target"])

    @hookimpl
    def evaluated(self, run: Run, split: str) -> None:
        """Write the file, once the test split has been measured."""
        if split != "test" or run.folder is None:
            return
        path = RunFolder(run.folder).predictions
        found, true = (torch.cat(parts).int().cpu().numpy() for parts in (self._found, self._true))
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, predicted=found, true=true)
        except OSError as error:
            raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
        self._found, self._true = [], []
