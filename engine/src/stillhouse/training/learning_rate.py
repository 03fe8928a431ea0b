"""The learning rate's schedule moves on: after each step of the optimizer, or after each epoch's measurement."""

from __future__ import annotations

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.schedulers import Moves
from stillhouse.training.score import find_score

__all__ = ["EpochRate", "LearningRate"]


class LearningRate:
    """Moves a schedule of steps on.

    Args:
        moves: the scheduler; its state is part of the checkpoint.
    """

    name = "learning rate"

    def __init__(self, moves: Moves) -> None:
        self.moves = moves

    @hookimpl
    def iteration_completed(self, run: Run) -> None:
        """The step has been logged with the rate that it had."""
        self.moves.move(run.trainer.state.iteration)


class EpochRate:
    """Moves a schedule of epochs on, by the score where it goes by that.

    Args:
        moves: the scheduler; its state is part of the checkpoint.
        evaluation: says whether the epoch was measured.
    """

    name = "learning rate"

    def __init__(self, moves: Moves, evaluation: Evaluation) -> None:
        self.moves, self._evaluation = moves, evaluation

    @hookimpl
    def epoch_completed(self, run: Run) -> None:
        """The epoch has been measured, unless ``run.validate_every`` leaves it out."""
        score = None
        if self.moves.by_score:
            if not self._evaluation.is_fresh(run):
                return
            score = run.metrics["val"][find_score(run.recipe.checkpoints, run.task).name]
        self.moves.move(run.trainer.state.epoch, score)
