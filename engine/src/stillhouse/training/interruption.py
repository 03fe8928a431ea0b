"""A run that a signal ends: it is heard at the end of a step, a checkpoint is written, and then the signal is obeyed."""

from __future__ import annotations

from collections.abc import Callable

from ignite.engine import Events

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.signals import Terminated, defer
from stillhouse.errors import StillhouseError
from stillhouse.training.checkpoints import Checkpoints

__all__ = ["Interruption"]


class Interruption:
    """Puts a signal off until the step is done, or the evaluation at an epoch's end, and saves what has been trained.

    Several processes have to stop after the same step: they agree where they wait for one another anyway, at the next
    logged step or the epoch's end.

    Args:
        checkpoints: write the last one.
    """

    name = "interruption"

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._undo: Callable[[], None] = lambda: None
        self._number = 0

    @hookimpl
    def started(self, run: Run) -> None:
        """Listen from now on."""
        self._run = run
        self._undo = defer(self._hear)
        if parallel.is_distributed():
            run.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._agree)

    def _hear(self, number: int) -> None:
        self._number = number
        if not parallel.is_distributed():
            self._stop_soon()

    @hookimpl
    def logged(self) -> None:
        """Agree on a signal that any of the processes has heard."""
        if parallel.is_distributed():
            self._agree()

    def _agree(self) -> None:
        if self._is_told():
            self._stop_soon()

    def _is_told(self) -> bool:
        """Whether any process has heard a signal; one that comes while they tell one another is kept for the next time."""
        told = max(parallel.gather_objects(self._number))
        if told:
            self._number = told
        return bool(told)

    def _stop_soon(self) -> None:
        # Only now: nobody is asked in any other step. They come after the handlers that are there, the checkpoint's too.
        self._run.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop_after_step)
        self._run.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._stop)

    def _stop_after_step(self) -> None:
        if self._run.trainer.state.iteration % self._run.steps_per_epoch:  # else the epoch's end is still to come
            self._stop()

    def _stop(self) -> None:
        try:
            self._checkpoints.write_last(self._run)
        except StillhouseError as error:
            raise Terminated(self._number, f"no checkpoint of this step was written, since {error}") from error
        done, total = self._run.trainer.state.iteration, self._run.total_steps
        raise Terminated(self._number, f"step {done} of {total} is done, and its checkpoint written")

    @hookimpl(tryfirst=True)
    def completed(self) -> None:
        """Obey at once from now on: all is trained and saved, and only to be measured."""
        self.close()
        if self._is_told():
            self._stop()

    def close(self) -> None:
        """Listen no longer."""
        self._undo()
