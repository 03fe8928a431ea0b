"""What is watched: TensorBoard through ignite's logger, and losses that are not finite.

Loss terms stay on the device. Every ``log_every`` steps, and before every checkpoint, all of them are stacked and copied
once; that is where a value that is not finite is found, and named by its term and plugin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.handlers import TensorboardLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import local
from stillhouse.errors import Fault, StillhouseError
from stillhouse.loop.stepper import Stepper
from stillhouse.models.weights import last_checkpoint
from stillhouse.registry.hooks import Hooks
from stillhouse.training.preview import Preview

__all__ = ["Monitor"]


class Monitor:
    """Reads the step's scalars at logged steps and writes them to TensorBoard.

    Args:
        run: with its trainer.
        optimizer: its learning rates are logged by parameter group.
        hooks: for what plugins give through ``scalars`` and ``figures``.
        stepper: for the gradients' norm where they are clipped.
    """

    def __init__(self, run: Run, optimizer: Optimizer, hooks: Hooks, stepper: Stepper) -> None:
        self._run, self._optimizer, self._hooks, self._stepper = run, optimizer, hooks, stepper
        self.latest: dict[str, float] = {}
        """The scalars of the last logged step, by tag."""
        self.logger: TensorboardLogger | None = None
        every = run.recipe.checkpoints.every_steps
        self._periods = [run.recipe.run.log_every, run.steps_per_epoch, *([every] if every else [])]
        self._mark: tuple[int, float] | None = None
        self._looked = False

    def open(self, folder: Path, purge_step: int | None) -> None:
        """Write to TensorBoard in the run's ``folder``; events of a killed run from ``purge_step`` on are hidden."""
        self.logger = _Logger(log_dir=str(folder / "tensorboard"), purge_step=purge_step)

    def look(self, step: Step) -> int:
        """Called by the trainer at the end of a step; reads the scalars where it is one that is logged.

        After the first step of all the losses alone are looked at: a term that is not finite from the start has not spread to
        the others yet.

        Returns:
            The iteration, from 1, at whose end the next one is.
        """
        done = step.iteration + 1
        if any(done % period == 0 for period in self._periods):
            self._read(step, done)
        elif not self._looked:
            self._refuse_non_finite(_copied(_losses(step)), done)
        self._looked = True
        return min(done - done % period + period for period in self._periods)

    def restart_clock(self, iteration: int) -> None:
        """Count images a second from here on; an epoch's evaluation and checkpoints are not training."""
        self._mark = (iteration, time.perf_counter())

    def _read(self, step: Step, iteration: int) -> None:
        tensors = _losses(step)
        for plugin, scalars in self._hooks.calls("scalars"):
            for name, value in scalars(step).items():
                tensors["plugin", f"{plugin.name}/{name}" if name else plugin.name] = value
        if self._stepper.gradient_norm is not None:
            tensors["gradient", "norm"] = self._stepper.gradient_norm
        by_key = _copied(tensors)
        self._refuse_non_finite(by_key, iteration)
        self.latest = self._tags(by_key, step)
        if self._mark is not None and iteration > self._mark[0]:
            elapsed = time.perf_counter() - self._mark[1]
            images = (iteration - self._mark[0]) * self._run.recipe.data.batch_size
            self.latest["speed/images_per_second"] = images / max(elapsed, 1e-9)
        self.restart_clock(iteration)
        if self.logger is not None:
            for tag, value in self.latest.items():
                self.logger.writer.add_scalar(tag, value, iteration)

    def _tags(self, values: Mapping[tuple[str, str], float], step: Step) -> dict[str, float]:
        tags = {}
        for (kind, name), value in values.items():
            if kind == "loss":
                tags[f"loss_raw/{name}"] = value
                tags[f"loss_weighted/{name}"] = value * step.weights[name]
            elif kind == "total":
                tags["loss/total"] = value
            elif kind == "gradient":
                tags["gradient/norm"] = value
            else:
                tags[f"plugin/{name}"] = value
        for group in self._optimizer.param_groups:
            tags[f"learning_rate/{group['name']}"] = float(group["lr"])
        return tags

    def _refuse_non_finite(self, values: Mapping[tuple[str, str], float], iteration: int) -> None:
        bad = [name for (kind, name), value in values.items() if kind == "loss" and not math.isfinite(value)]
        if not bad and math.isfinite(values["total", "total"]):
            return
        folder = self._run.folder
        kept = folder is not None and last_checkpoint(folder / "checkpoints") is not None
        advice = "start another run with a lower learning rate or weight"
        if kept:
            advice = f"the last good checkpoint is kept; {advice}"
        if len(bad) > 1 and not _finite(self._run.student):
            advice = f"nor are the student's weights, so that which term was first cannot be told: run.log_every = 1 does; {advice}"
        faults = []
        for name in bad:
            plugin = name.split("/")[0]
            owner = "the task" if plugin == "task" else f"plugin {plugin!r}"
            faults.append(Fault(f"step {iteration}", f"the loss term {name!r} of {owner} is not finite", advice))
        if not faults:
            faults = [Fault(f"step {iteration}", "every loss term is finite, and their weighted sum is not", advice)]
        raise StillhouseError(faults=faults)

    def metrics(self, split: str, values: Mapping[str, float]) -> None:
        """Log one evaluation's metrics."""
        if self.logger is not None:
            for name, value in values.items():
                self.logger.writer.add_scalar(f"{split}/{name}", value, self._run.trainer.state.iteration)

    def figures(self, preview: Preview) -> None:
        """Log what the task draws of the samples in ``preview``, and what plugins give through ``figures``."""
        if self.logger is None or not self._run.recipe.run.figures:
            return
        for name, figure in preview.figures().items():
            self.logger.writer.add_figure(f"task/{name}", figure, self._run.trainer.state.iteration, close=True)
        for plugin, figures in self._hooks.calls("figures"):
            for name, figure in figures(self._run).items():
                self.logger.writer.add_figure(
                    f"{plugin.name}/{name}", figure, self._run.trainer.state.iteration, close=True
                )

    def text(self, name: str, body: str) -> None:
        """Log a text, shown as it is."""
        if self.logger is not None:
            self.logger.writer.add_text(name, "```\n" + body.replace("```", "'''") + "\n```")

    def hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Log the run's settings and results for TensorBoard's HPARAMS page, in this run's own folder."""
        if self.logger is not None:
            plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hparams.items()}
            # A name of their own: under the metrics' names they would show as one more point of each curve.
            final = {f"summary/{name}": value for name, value in metrics.items()}
            self.logger.writer.add_hparams(plain, final, run_name=".")

    def close(self) -> None:
        """Write what is buffered and close."""
        if self.logger is not None:
            self.logger.close()


def _losses(step: Step) -> dict[tuple[str, str], Tensor]:
    tensors = {("loss", name): value for name, value in step.losses.items()}
    assert step.total is not None
    return {**tensors, ("total", "total"): step.total}


def _copied(tensors: Mapping[tuple[str, str], Tensor]) -> dict[tuple[str, str], float]:
    """Their means over the processes, in one copy: each .item() would wait for the device again."""
    stacked = torch.stack([v.detach().float().reshape(()) for v in tensors.values()])
    return dict(zip(tensors, parallel.mean_over_processes(stacked).tolist(), strict=True))


def _finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in map(local, model.parameters()))


class _Logger(TensorboardLogger):
    """ignite's logger with torch's writer: tensorboardX's, which ignite prefers where it is installed, takes no ``run_name``."""

    def __init__(self, **options: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(**options)
