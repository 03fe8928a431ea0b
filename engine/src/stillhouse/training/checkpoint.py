"""Checkpoints: data alone, written whole or not at all, and read without unpickling code.

ignite's Checkpoint keeps count and its DiskSaver writes to a temporary file and renames it. What is added: an older
file goes only after the newer one is there, and nothing is written while a value is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stillhouse import seeds as rng
from stillhouse.config.recipe import CheckpointSpec
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import fit_state, local, spread_optimizer_state, whole
from stillhouse.errors import StillhouseError
from stillhouse.models.weights import last_checkpoint, load_state, read_checkpoint

if TYPE_CHECKING:
    from stillhouse.training.evaluation import Measuring

__all__ = ["Checkpoints"]


class _Saver(DiskSaver):
    """A DiskSaver that removes an older file only once the newer one has been written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), atomic=True, create_dir=True, require_empty=False)
        self._outdated: list[str] = []

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        try:
            super().__call__(checkpoint, filename, metadata)
        except RuntimeError as error:
            # torch's writer says so where the disk is full, and hides the system's own error.
            if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
                raise OSError(f"torch's writer failed, as on a full disk: {error}".splitlines()[0]) from error
            raise
        while self._outdated and parallel.is_first():
            (Path(self.dirname) / self._outdated.pop()).unlink(missing_ok=True)

    def remove(self, filename: str) -> None:
        self._outdated.append(filename)


class _Generators:
    """The global generators of every process, as an object with a state."""

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {f"rank{rank}": state for rank, state in enumerate(parallel.all_of(rng.capture()))}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        own = state.get(f"rank{idist.get_rank()}")
        if own is not None:  # with more processes than before, the new ones keep their own beginning
            rng.restore(own)


class _Whole:
    """Something with a state whose tensors may be spread over the processes: saved whole, loaded spread again."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = whole(self.inner.state_dict())
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
        run: with composition, trainer and folder.
        optimizer: saved with the models.
        scheduler: likewise, if there is one.
        spec: when to write.
        measuring: whose history goes into the file, and which knows whether the epoch's weights were measured.
        more: further such objects by name; ``ema`` goes into the best checkpoint as well.
    """

    def __init__(
        self,
        run: Run,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        spec: CheckpointSpec,
        measuring: Measuring,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        assert run.folder is not None
        self.folder = run.folder / "checkpoints"
        self._run = run
        self._spec = spec
        self._measuring = measuring
        self._saver = _Saver(self.folder)
        self._state: dict[str, Any] = {
            "model": _Whole(run.composition),
            "optimizer": _Whole(optimizer),
            "trainer": run.trainer,
            "generators": _Generators(),
            "history": measuring,
            **(more or {}),
        }
        if scheduler is not None:
            self._state["scheduler"] = scheduler
        weights = {key: value for key, value in self._state.items() if key in ("model", "ema")}
        self._best = self._handler(weights, "best", 1, self._score) if spec.best else None
        if self._best is not None:
            self._state["best"] = self._best
        self._last = self._handler(self._state, "last", 1)
        self._kept = self._handler(self._state, "epoch", None)

    def _handler(self, state: dict[str, Any], prefix: str, n_saved: int | None, score: Any = None) -> Checkpoint:
        return Checkpoint(
            state,
            self._saver,
            filename_prefix=prefix,
            filename_pattern="{filename_prefix}_{global_step}.pt",
            n_saved=n_saved,
            score_function=score,
            global_step_transform=lambda *_: self._run.trainer.state.iteration,
        )

    def _score(self, _engine: Engine) -> float:
        value = self._run.metrics["val"][self._run.task.score]
        return value if self._run.task.score_mode == "max" else -value

    def attach(self) -> None:
        """Write from now on. Attach it last: what other handlers of the same event change belongs into the file."""
        trainer, spec = self._run.trainer, self._spec
        if spec.every_steps is not None:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(every=spec.every_steps), self._in_epoch)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)

    def _in_epoch(self) -> None:
        # After an epoch's last step the evaluation and the plugins' epoch hooks are still to come: a run resumed from
        # here would skip them. The checkpoint of the epoch's end covers that step.
        if self._run.trainer.state.iteration % self._run.steps_per_epoch:
            self._write(self._last)

    def _after_epoch(self) -> None:
        may_be_best = self._measuring.is_fresh and self._run.trainer.state.iteration >= self._run.best_from
        if self._best is not None and may_be_best and self._run.task.score in self._run.metrics["val"]:
            self._write(self._best)
        if self._spec.keep_every and self._run.trainer.state.epoch % self._spec.keep_every == 0:
            self._write(self._kept)
        self._write(self._last)

    def _write(self, handler: Checkpoint) -> None:
        refuse_non_finite(self._run.composition)
        try:
            handler(self._run.trainer)
        except OSError as error:
            raise StillhouseError(
                f"the checkpoint cannot be written: {error}",
                where=str(self.folder),
                hint="the last good checkpoint is still there; make room and use --resume",
            ) from error

    def resume(self) -> int:
        """Bring models, optimizer, schedule, generators and step count back; tidy away what a killed run left.

        Returns:
            The optimizer steps already done; 0 when there is no checkpoint yet.

        Raises:
            StillhouseError: the checkpoint is damaged or of another composition.
        """
        if parallel.is_first():
            for left in self.folder.glob("tmp*"):
                left.unlink(missing_ok=True)
        path = last_checkpoint(self.folder)
        if path is None:
            return 0
        saved = read_checkpoint(path, "delete it: the run goes on from an older checkpoint, or else from the start")
        missing = [key for key in self._state if key not in saved]
        if missing:
            raise StillhouseError(
                f"lacks {', '.join(missing)}", where=str(path), hint="it is no checkpoint of this run"
            )
        for key, target in self._state.items():
            if key == "model":
                load_state(self._run.composition, saved[key], str(path))
            else:
                try:
                    target.load_state_dict(saved[key])
                except (ValueError, KeyError, RuntimeError) as error:
                    raise StillhouseError(f"its {key} does not fit this run: {error}", where=str(path)) from error
        step: int = self._run.trainer.state.iteration
        self._last.load_state_dict({"_saved": [(step, path.name)]})
        self._tidy(path)
        return step

    def _tidy(self, path: Path) -> None:
        best = {item.filename for item in self._best._saved} if self._best is not None else set()
        for file in self.folder.glob("*.pt") if parallel.is_first() else ():
            outdated = file.name.startswith("last_") and file != path
            if outdated or (file.name.startswith("best_") and file.name not in best):
                file.unlink(missing_ok=True)


def refuse_non_finite(module: nn.Module) -> None:
    """Raise if any parameter of ``module`` is not finite or any buffer is NaN; one copy from the device.

    A buffer may hold infinities on purpose: attention masks do.

    Raises:
        StillhouseError: it names the tensors.
    """
    with torch.no_grad():
        looks = [(n, torch.isfinite(local(p)).all()) for n, p in module.named_parameters() if p.is_floating_point()]
        looks += [(n, ~torch.isnan(b).any()) for n, b in module.named_buffers() if b.is_floating_point()]
        if not looks:
            return
        # A sharded parameter's look is this process's share of it: all of them look together.
        fine = parallel.sum_over_processes(torch.stack([~look for _, look in looks]).float()).eq(0).tolist()
    bad = [name for (name, _), ok in zip(looks, fine, strict=True) if not ok]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise StillhouseError(
            f"values that are not finite in {', '.join(bad[:3])}{more}: no checkpoint is written",
            hint="the last good one is kept; start another run with a lower learning rate or weight",
        )
