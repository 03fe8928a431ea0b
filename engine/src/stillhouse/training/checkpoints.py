"""Checkpoints: data alone, written whole or not at all, and read without unpickling code.

:mod:`stillhouse.training.run_state` says what is in one and :mod:`stillhouse.training.checkpoint_writer` writes it; here is
when. An older file goes only after the newer one is there, nothing is written while a value is not finite, and nothing that
could not be read back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import warn

from ignite.engine import Events

from stillhouse.config.run import CheckpointSpec
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.finite import refuse_non_finite
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.files import clear_temporaries, replacing
from stillhouse.models.checkpoint_file import read_checkpoint
from stillhouse.training.checkpoint_writer import CheckpointWriter, File, explain_failure, find_whole
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.history import HistoryFile
from stillhouse.training.run_state import WEIGHTS, RunState
from stillhouse.training.score import RunningBest

__all__ = ["Checkpoints"]

_DELETE = "delete it: the run goes on from an older checkpoint, or else from the start"


class _BestName:
    """Which file has the best weights, or will have, as an object with a state."""

    def __init__(self) -> None:
        self.file: str | None = None

    def state_dict(self) -> dict[str, str | None]:
        return {"file": self.file}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        self.file = state["file"]


class Checkpoints:
    """Writes a run's checkpoints and brings a run back to its last one.

    At each epoch's end the run's state is copied, and a short epoch's copy is worth no file: it is written at the first
    epoch's end, when ``every_seconds`` have gone by, and at the run's end, also where that is an error or Ctrl-C. So are the
    best weights, before any checkpoint that names them.

    Args:
        folder: the run's.
        spec: when to write.
        evaluation: whose history goes into the file, and says which epoch is the best.
        parts: what else belongs into a checkpoint, by name: the optimizer, and whatever of a run has a state of its own;
            ``ema`` goes into the best checkpoint as well.
    """

    name = "checkpoints"

    def __init__(self, folder: Path, spec: CheckpointSpec, evaluation: Evaluation, parts: Mapping[str, Any]) -> None:
        self.folder = folder / "checkpoints"
        self._spec, self._evaluation = spec, evaluation
        self._history = HistoryFile(folder, evaluation)
        self._parts = parts
        self._state: RunState | None = None
        self._writer = CheckpointWriter(self.folder)
        self._best_name = _BestName()
        self._held: dict[str, Mapping[str, Any]] = {}
        """What is copied and not written yet, by kind: the last state, the best weights."""
        self._there: dict[str, str] = {}
        """By kind the file that was handed to the writer last."""
        self._step = 0
        """That of the last copy."""
        self._written_at: float | None = None

    def _open(self, run: Run) -> RunState:
        """The run's state; made the first time that the run is seen."""
        if self._state is None:
            self._state = RunState(run, self._parts, {"history": self._history, "best": self._best_name})
        return self._state

    @hookimpl
    def started(self, run: Run) -> None:
        """Write from now on, after every handler that was attached before: what it changes belongs into the file.

        Raises:
            StillhouseError: a module keeps in its state what no checkpoint can be read back with.
        """
        state = self._open(run)
        state.refuse_unreadable()
        file = self._best_name.file
        # Epochs before the file of the best weights are worse; those without one at all, of a run that kept none, are out of it.
        known = len(self._evaluation.history) if file is None else _read_step(file) // run.steps_per_epoch - 1
        self._best = RunningBest(run, leave_out=known)
        trainer = run.trainer

        def after_first_step() -> None:
            # An optimizer's state is there after its first step. A handler with a filter would be asked in every other one too.
            trainer.remove_event_handler(after_first_step, Events.ITERATION_COMPLETED)
            state.refuse_unreadable()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, after_first_step)
        if self._spec.every_steps is not None:
            event = Events.ITERATION_COMPLETED(every=self._spec.every_steps)
            trainer.add_event_handler(event, lambda: self._in_epoch(run))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._after_epoch(run))
        trainer.add_event_handler(Events.TERMINATE, lambda: self._in_epoch(run))

    def _in_epoch(self, run: Run) -> None:
        # After an epoch's last step the evaluation and the plugins' epoch hooks are still to come: a run resumed from
        # here would skip them. The checkpoint of the epoch's end covers that step.
        if run.trainer.state.iteration % run.steps_per_epoch:
            self._copy(run)
            self._write(run, "last")

    def _after_epoch(self, run: Run) -> None:
        epoch = run.trainer.state.epoch
        improved = self._spec.best and self._best.of(self._evaluation.history).epoch == epoch
        self._copy(run, improved=improved)
        if self._spec.keep_every and epoch % self._spec.keep_every == 0:
            self._write(run, "epoch", "last")
        elif self._is_due(run):
            self._write(run, "last")

    def _is_due(self, run: Run) -> bool:
        """Whether the state at an epoch's end is to be written now; the first process's clock says so for all."""
        step, every = run.trainer.state.iteration, self._spec.every_steps
        ends = run.trainer.state.epoch == run.epochs or run.trainer.should_terminate
        late = self._written_at is None or time.monotonic() - self._written_at >= self._spec.every_seconds
        due: bool = parallel.broadcast_object(bool(ends or late or (every and step % every == 0)))
        return due

    def _copy(self, run: Run, *, improved: bool = False) -> None:
        """Copy the run's state as it is now, and hold it, as the best one too where it has ``improved``."""
        refuse_non_finite(run.composition)
        if improved:
            self._best_name.file = f"best_{run.trainer.state.iteration}.pt"
        state = self._open(run)
        content = state.copy()
        state.refuse_unreadable(content)  # now: what was held before is still good
        self._held["last"] = content
        if improved:
            self._held["best"] = {key: content[key] for key in WEIGHTS if key in content}
        self._step = run.trainer.state.iteration

    def _write(self, run: Run, *kinds: str) -> None:
        """Have what is held written, the last state as each of ``kinds``."""
        with self._telling():
            parallel.in_first(self._writer.wait)  # what is held stays so, until those before are there
            files = self._name_held(*kinds)
            try:
                parallel.in_first(self._history.write)  # before the checkpoint that has seen it
                parallel.in_first(lambda: self._writer.write(files))
            except Exception:
                self._held.clear()  # it is said now, and not tried again
                raise
            self._held.clear()
        self._written_at = time.monotonic()

    def _name_held(self, *kinds: str) -> list[File]:
        """The files of what is held: of the best weights, then of the last state as each of ``kinds``.

        ``last`` comes last: who is killed before it is there goes back an epoch, and writes the others again.
        """
        named = []
        if "best" in self._held and self._best_name.file is not None:
            named.append(("best", self._best_name.file, self._held["best"]))
        if "last" in self._held:
            named += [(kind, f"{kind}_{self._step}.pt", self._held["last"]) for kind in kinds]
        outdated = {kind: name for kind, name in self._there.items() if kind != "epoch"}  # those of epochs stay
        self._there |= {kind: name for kind, name, _ in named}
        return [File(name, content, outdated.get(kind)) for kind, name, content in named]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of what cannot be written which checkpoint is left."""
        try:
            yield
        except OSError as error:
            raise explain_failure(self.folder, error) from error

    def write_last(self, run: Run) -> None:
        """Have this step's checkpoint written, unless it is, and wait until it is there.

        Raises:
            StillhouseError: it cannot be written; the one before stays.
        """
        if self._step != run.trainer.state.iteration:
            self._copy(run)
        if self._held:
            self._write(run, "last")
        self._wait()

    def _wait(self) -> None:
        with self._telling():
            parallel.in_first(self._writer.wait)

    @hookimpl
    def completed(self, run: Run) -> None:
        """Wait for the last files, which were written while the run was measured.

        Raises:
            StillhouseError: one cannot be written; the one before stays.
        """
        if self._held:  # of a run that was ended before its epoch was
            self._write(run, "last")
        self._wait()

    def close(self) -> None:
        """Write what a run that has failed still holds, and wait for it; the other processes may be gone."""
        try:
            with self._telling():
                if self._held and parallel.is_first():
                    self._history.write()
                    files = self._name_held("last")
                    self._held.clear()
                    self._writer.write(files)
                self._writer.close()
        except StillhouseError as error:
            warn(str(error), StillhouseWarning, stacklevel=2)  # what has ended the run is raised already

    def resume(self, run: Run) -> int:
        """Bring models, optimizer, schedule, generators and step count back; tidy away what a killed run left.

        Returns:
            The optimizer steps already done; 0 when there is no checkpoint yet.

        Raises:
            StillhouseError: the checkpoint is damaged or of another composition.
        """
        state = self._open(run)
        if parallel.is_first():
            clear_temporaries(self.folder)
        path = find_whole(self.folder)
        if path is None:
            self._begin_anew()
            return 0
        state.load(read_checkpoint(path, _DELETE, own=True), str(path))
        step: int = run.trainer.state.iteration
        last = self.folder / f"last_{step}.pt"
        if path != last:  # one that was to stay does so, and is the last as well
            parallel.in_first(lambda: _copy(path, last))
        self._there["last"], self._step = last.name, step
        if self._best_name.file is not None:
            self._there["best"] = self._best_name.file
        self._tidy(last)
        return step

    def take_over_best(self, file: Path) -> None:
        """Have the best weights of a run that this one goes on from, in ``file``, as its own until there are better ones."""
        if self._spec.best and file.is_file():
            parallel.in_first(lambda: _copy(file, self.folder / file.name))
            self._best_name.file = self._there["best"] = file.name

    def _begin_anew(self) -> None:
        """Take away what a run has left that was killed between its first epoch's files."""
        self._history.clear()
        for file in self.folder.glob("*.pt") if parallel.is_first() else ():
            file.unlink(missing_ok=True)

    def _tidy(self, path: Path) -> None:
        best = self._best_name.file if self._spec.best else None
        for file in self.folder.glob("*.pt") if parallel.is_first() else ():
            outdated = file.name.startswith("last_") and file != path
            if outdated or (file.name.startswith("best_") and file.name != best):
                file.unlink(missing_ok=True)


def _read_step(file: str) -> int:
    return int(file.removeprefix("best_").removesuffix(".pt"))


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as temporary:
        shutil.copyfile(path, temporary)
