"""Checkpoints: data alone, written whole or not at all, and read without unpickling code.

ignite's Checkpoint keeps count; :mod:`stillhouse.models.checkpoint_file` writes. An older file goes only after the newer one
is there, nothing is written while a value is not finite, and nothing that could not be read back.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse import seeds as rng
from stillhouse.config.run import CheckpointSpec
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.finite import find_non_finite
from stillhouse.distributed.fsdp import fit_state, gather_tensors, spread_optimizer_state
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.files import clear_temporaries, replacing
from stillhouse.models.checkpoint_file import find_unreadable, read_checkpoint, write_checkpoint
from stillhouse.models.weights import find_last_checkpoint, load_state
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.history import HistoryFile
from stillhouse.training.score import best_of

__all__ = ["Checkpoints"]

_DELETE = "delete it: the run goes on from an older checkpoint, or else from the start"


class _Saver(BaseSaveHandler):
    """Writes a checkpoint in the first process, and removes an older file only once the newer one has been written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outdated: list[str] = []
        self._tried = False

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        # ignite leaves the name out of a checkpoint of one thing.
        only = str((metadata or {}).get("basename", "")).rpartition("_")[2]
        whole = {only: checkpoint} if only in ("model", "ema") else checkpoint
        parallel.in_first(lambda: self._write(whole, self._folder / filename))
        while self._outdated and parallel.is_first():
            (self._folder / self._outdated.pop()).unlink(missing_ok=True)

    def _write(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, checkpoint)
        if self._tried:
            return
        try:  # the first one: what can be read once can be read again
            read_checkpoint(path, "the file system has not kept what was written", own=True)
        except StillhouseError:
            path.unlink(missing_ok=True)
            raise
        self._tried = True

    def remove(self, filename: str) -> None:
        self._outdated.append(filename)


class _Generators:
    """The global generators of every process, as an object with a state."""

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {f"rank{rank}": state for rank, state in enumerate(parallel.gather_objects(rng.capture()))}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        own = state.get(f"rank{idist.get_rank()}")
        if own is not None:  # with more processes than before, the new ones keep their own beginning
            rng.restore(own)


class _Whole:
    """Something with a state whose tensors may be spread over the processes: saved whole, loaded spread again."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = gather_tensors(self.inner.state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.inner, nn.Module):
            self.inner.load_state_dict(fit_state(state, self.inner.state_dict()))
            return
        self.inner.load_state_dict(dict(state))
        if isinstance(self.inner, Optimizer):
            spread_optimizer_state(self.inner)


class Checkpoints:
    """Writes a run's checkpoints and brings a run back to its last one.

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
        self._state: dict[str, Any] = {}
        self._handlers: dict[str, Checkpoint] = {}

    def _open(self, run: Run) -> None:
        """Make ignite's handlers and the folder; the first time that the run is seen."""
        if self._handlers:
            return
        saver = _Saver(self.folder)
        parts = {key: _Whole(part) if isinstance(part, Optimizer) else part for key, part in self._parts.items()}
        self._state |= {"model": _Whole(run.composition), **parts, "trainer": run.trainer}
        self._state |= {"generators": _Generators(), "history": self._history}
        if self._spec.best:
            weights = {key: value for key, value in self._state.items() if key in ("model", "ema")}
            self._state["best"] = self._handlers["best"] = self._handler(run, saver, weights, "best", 1)
        self._handlers["last"] = self._handler(run, saver, self._state, "last", 1)
        self._handlers["epoch"] = self._handler(run, saver, self._state, "epoch", None)

    @staticmethod
    def _handler(run: Run, saver: _Saver, state: dict[str, Any], prefix: str, n_saved: int | None) -> Checkpoint:
        return Checkpoint(
            state,
            saver,
            filename_prefix=prefix,
            filename_pattern="{filename_prefix}_{global_step}.pt",
            n_saved=n_saved,
            global_step_transform=lambda *_: run.trainer.state.iteration,
        )

    @hookimpl
    def started(self, run: Run) -> None:
        """Write from now on, after every handler that was attached before: what it changes belongs into the file.

        Raises:
            StillhouseError: a module keeps in its state what no checkpoint can be read back with.
        """
        self._open(run)
        self._refuse_unreadable()
        # An optimizer's state is there after its first step. A handler with a filter would be asked in every other one too.
        run.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_first_step, run)
        if self._spec.every_steps is not None:
            event = Events.ITERATION_COMPLETED(every=self._spec.every_steps)
            run.trainer.add_event_handler(event, lambda: self._in_epoch(run))
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._after_epoch(run))

    def _after_first_step(self, run: Run) -> None:
        run.trainer.remove_event_handler(self._after_first_step, Events.ITERATION_COMPLETED)
        self._refuse_unreadable()

    def _refuse_unreadable(self) -> None:
        faults = []
        for name, part in self._state.items():
            if name in ("generators", "history", "best"):
                continue  # ours
            inner = part.inner if isinstance(part, _Whole) else part
            faults += [
                Fault(
                    f"checkpoints: {name}",
                    f"{key!r} is a {kind}, and a checkpoint with it could be written but never read",
                    "state is tensors, numbers, texts, and lists and dicts of them",
                )
                for key, kind in find_unreadable(inner.state_dict())
            ]
        raise_faults(faults)

    def _in_epoch(self, run: Run) -> None:
        # After an epoch's last step the evaluation and the plugins' epoch hooks are still to come: a run resumed from
        # here would skip them. The checkpoint of the epoch's end covers that step.
        if run.trainer.state.iteration % run.steps_per_epoch:
            self._write(run, "last")

    def _after_epoch(self, run: Run) -> None:
        epoch = run.trainer.state.epoch
        if self._spec.best and best_of(run, self._evaluation.history).epoch == epoch:
            self._write(run, "best")
        if self._spec.keep_every and epoch % self._spec.keep_every == 0:
            self._write(run, "epoch")
        self._write(run, "last")

    def _write(self, run: Run, kind: str) -> None:
        refuse_non_finite(run.composition)
        self._refuse_unreadable()
        try:
            self._handlers[kind](run.trainer)
        except OSError as error:
            last = _find_whole(self.folder)
            kept = "there is none yet: the run begins anew" if last is None else f"{last.name} is still there"
            raise StillhouseError(
                f"the checkpoint cannot be written: {error.strerror or error}",
                where=str(self.folder),
                hint=f"{kept}; make room and use --resume",
            ) from error

    def write_last(self, run: Run) -> None:
        """Write the last checkpoint now, in mid-epoch, unless this step's is there.

        Raises:
            StillhouseError: it cannot be written; the one before stays.
        """
        if not (self.folder / f"last_{run.trainer.state.iteration}.pt").exists():
            self._write(run, "last")

    def resume(self, run: Run) -> int:
        """Bring models, optimizer, schedule, generators and step count back; tidy away what a killed run left.

        Returns:
            The optimizer steps already done; 0 when there is no checkpoint yet.

        Raises:
            StillhouseError: the checkpoint is damaged or of another composition.
        """
        self._open(run)
        if parallel.is_first():
            clear_temporaries(self.folder)
        path = _find_whole(self.folder)
        if path is None:
            self._begin_anew()
            return 0
        saved = read_checkpoint(path, _DELETE, own=True)
        missing = [key for key in self._state if key not in saved]
        if missing:
            raise StillhouseError(
                f"lacks {', '.join(missing)}", where=str(path), hint="it must be a checkpoint of this run"
            )
        for key, target in self._state.items():
            if key == "model":
                load_state(run.composition, saved[key], str(path))
            else:
                try:
                    target.load_state_dict(saved[key])
                except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
                    raise StillhouseError(f"its {key} does not fit this run: {error}", where=str(path)) from error
        step: int = run.trainer.state.iteration
        last = self.folder / f"last_{step}.pt"
        if path != last:  # one that was to stay does so, and is the last as well
            parallel.in_first(lambda: _copy(path, last))
        self._handlers["last"].load_state_dict({"_saved": [(step, last.name)]})
        self._tidy(last)
        return step

    def _begin_anew(self) -> None:
        """Take away what a run has left that was killed between its first epoch's files."""
        self._history.clear()
        for file in self.folder.glob("*.pt") if parallel.is_first() else ():
            file.unlink(missing_ok=True)

    def _tidy(self, path: Path) -> None:
        best = {item.filename for item in self._handlers["best"]._saved} if self._spec.best else set()
        for file in self.folder.glob("*.pt") if parallel.is_first() else ():
            outdated = file.name.startswith("last_") and file != path
            if outdated or (file.name.startswith("best_") and file.name not in best):
                file.unlink(missing_ok=True)


def _copy(path: Path, to: Path) -> None:
    with replacing(to) as temporary:
        shutil.copyfile(path, temporary)


def _find_whole(folder: Path) -> Path | None:
    """The checkpoint that a run can go on from: the last, or where that was deleted the newest of those that were to stay."""
    return find_last_checkpoint(folder) or find_last_checkpoint(folder, "epoch")


def refuse_non_finite(module: nn.Module) -> None:
    """Raise if any parameter of ``module`` is not finite or any buffer is NaN; one copy from the device.

    A buffer may hold infinities on purpose: attention masks do.

    Raises:
        StillhouseError: it names the tensors.
    """
    bad = find_non_finite(module)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise StillhouseError(
            f"values that are not finite in {', '.join(bad[:3])}{more}: no checkpoint is written",
            hint="the last good one is kept; start another run with a lower learning rate or weight",
        )
