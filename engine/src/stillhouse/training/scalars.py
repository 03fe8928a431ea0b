"""The scalars of a step: read at logged steps, told through ``logged``, and refused where they are not finite.

Loss terms stay on the device. Every ``log_every`` steps, and before every checkpoint, all of them are stacked and copied
once; that is where a value that is not finite is found, and named by its term and plugin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse.config.recipe import Recipe
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Named
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import to_local
from stillhouse.errors import Fault, StillhouseError
from stillhouse.layout import format_shape
from stillhouse.loop.phases import place_of
from stillhouse.loop.stepper import Stepper
from stillhouse.models.weights import find_last_checkpoint
from stillhouse.registry.hooks import Call, Hooks, emit, named_values

__all__ = ["StepScalars", "metric_tags"]

_WIDE = (torch.float64, torch.int64)  # more than float32 holds


def metric_tags(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics by split as ``SPLIT/METRIC``: their tags in TensorBoard, beside the tags that ``logged`` gives."""
    return {f"{split}/{name}": value for split, values in metrics.items() for name, value in values.items()}


class StepScalars:
    """Reads the step's scalars at logged steps.

    Args:
        recipe: says how often: ``run.log_every``, and before each checkpoint of ``checkpoints.every_steps``.
        steps_per_epoch: an epoch's last step is logged as well.
        optimizer: its learning rates are logged by parameter group.
        hooks: for what plugins give through ``scalars``, and whom ``logged`` is told.
        stepper: for the gradients' norm where they are clipped.
    """

    name = "scalars"

    def __init__(
        self, recipe: Recipe, steps_per_epoch: int, optimizer: Optimizer, hooks: Hooks, stepper: Stepper
    ) -> None:
        self._optimizer, self._hooks, self._stepper = optimizer, hooks, stepper
        every = recipe.checkpoints.every_steps
        self.periods = [recipe.run.log_every, steps_per_epoch, *([every] if every else [])]
        """Steps between two logged ones, for each reason to log."""
        self._mark: tuple[int, float] | None = None
        self._looked = False
        self._calls: tuple[list[Call], list[Call]] | None = None

    @hookimpl
    def epoch_started(self, run: Run) -> None:
        """Count images a second from here on; an epoch's evaluation and checkpoints are not training."""
        self._mark = (run.trainer.state.iteration, time.perf_counter())
        self._calls = None

    def log_step(self, run: Run, step: Step) -> int:
        """Called by the trainer at the end of a step; read the scalars where it is one that is logged.

        After the first step of all the losses alone are looked at: a term that is not finite from the start has not spread to
        the others yet.

        Returns:
            The iteration, from 1, at whose end the next one is.

        Raises:
            StillhouseError: a loss term is not finite.
        """
        done = step.iteration + 1
        if any(done % period == 0 for period in self.periods):
            if self._calls is None:  # once an epoch
                self._calls = self._hooks.calls("scalars"), self._hooks.calls("logged", run=run)
            scalars = self.read(run, step, self._calls[0])
            # Read only: what is handed to a plugin goes on to the log.
            emit(self._calls[1], "logged", lambda: place_of(step), step, MappingProxyType(scalars))
        elif not self._looked:
            _refuse_non_finite(run, _copied(_losses(step)), done)
        self._looked = True
        return min(done - done % period + period for period in self.periods)

    def read(self, run: Run, step: Step, calls: Sequence[Call]) -> dict[str, float]:
        """The step's scalars by tag, those of the hooks ``calls`` among them, in one copy from the device.

        Raises:
            StillhouseError: a loss term is not finite.
        """
        done = step.iteration + 1
        tensors: dict[tuple[str, str], Tensor | float] = {**_losses(step)}
        for plugin, scalars in calls:
            for name, value in _named(plugin, scalars, step).items():
                value = _scalar(plugin, name, value, step)
                if isinstance(plugin, Plugin):
                    tensors["plugin", f"{plugin.name}/{name}" if name else plugin.name] = value
                else:  # an observer's have tags of their own
                    tensors["", name] = value
        if self._stepper.gradient_norm is not None:
            tensors["gradient", "norm"] = self._stepper.gradient_norm
        by_key = _copied(tensors)
        _refuse_non_finite(run, by_key, done)
        found = self._tags(by_key, step)
        now = time.perf_counter()
        if self._mark is not None and done > self._mark[0]:
            # All batches of an epoch but its last one are full.
            images = (done - self._mark[0] - 1) * run.recipe.data.batch_size
            shares = idist.get_world_size() if parallel.is_distributed() else 1
            images += sum(len(part.ids) for part in step.parts) * shares
            found["speed/images_per_second"] = images / max(now - self._mark[1], 1e-9)
        self._mark = (done, now)
        return found

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
                tags[f"{kind}/{name}" if kind else name] = value
        for group in self._optimizer.param_groups:
            tags[f"learning_rate/{group['name']}"] = float(group["lr"])
        return tags


def _refuse_non_finite(run: Run, values: Mapping[tuple[str, str], float], iteration: int) -> None:
    bad = [name for (kind, name), value in values.items() if kind == "loss" and not math.isfinite(value)]
    if not bad and math.isfinite(values["total", "total"]):
        return
    kept = run.folder is not None and find_last_checkpoint(run.folder / "checkpoints") is not None
    advice = "start another run with a lower learning rate or weight"
    if kept:
        advice = f"the last good checkpoint is kept; {advice}"
    if len(bad) > 1 and not _finite(run.student):
        advice = f"nor are the student's weights, so that which term was first cannot be told: run.log_every = 1 does; {advice}"
    faults = []
    for name in bad:
        plugin = name.split("/")[0]
        owner = "the task" if plugin == "task" else f"plugin {plugin!r}"
        faults.append(Fault(f"step {iteration}", f"the loss term {name!r} of {owner} is not finite", advice))
    if not faults:
        faults = [Fault(f"step {iteration}", "every loss term is finite, and their weighted sum is not", advice)]
    raise StillhouseError(faults=faults)


def _losses(step: Step) -> dict[tuple[str, str], Tensor]:
    tensors = {("loss", name): value for name, value in step.losses.items()}
    assert step.total is not None
    return {**tensors, ("total", "total"): step.total}


def _named(plugin: Named, scalars: Callable[[Step], Any], step: Step) -> Mapping[str, Any]:
    try:
        return named_values(plugin, "scalars", scalars, step)
    except StillhouseError as error:
        raise error.within(place_of(step)) from error.__cause__
    except Exception as error:
        error.add_note(place_of(step))
        raise


def _scalar(plugin: Named, name: str, value: Any, step: Step) -> Tensor | float:
    """One of a plugin's ``scalars``: a tensor of one element, or a plain number, which is on the host already."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and value.layout is torch.strided and not value.is_meta and not value.is_complex():
            return value
        kind = "" if value.layout is torch.strided else " sparse"
        got = f"a{' complex' if value.is_complex() else kind} tensor of shape {format_shape(value)}"
        got += " on 'meta'" if value.is_meta else ""
    else:
        if isinstance(value, int | float | np.number | np.bool_) and not isinstance(value, np.complexfloating):
            with suppress(OverflowError):
                return float(value)
        got = type(value).__name__ if not isinstance(value, int) else "a number that no float can be"
    raise StillhouseError(
        f"scalars gave {got} as {name!r}",
        where=f"{place_of(step)}: plugin {plugin.name!r}",
        hint="a number, or a scalar tensor, such as x.mean()",
    )


def _copied(values: Mapping[tuple[str, str], Tensor | float]) -> dict[tuple[str, str], float]:
    """Their means over the processes, in one copy: each .item() would wait for the device again."""
    tensors = [x for x in values.values() if isinstance(x, Tensor)]
    if parallel.is_distributed():  # a number differs by process as well, and so may its type: the device alone does not
        like = tensors[0]
        dtype = torch.float64 if like.device.type == "cpu" else torch.float32
        values = {key: x if isinstance(x, Tensor) else like.new_tensor(x, dtype=dtype) for key, x in values.items()}
    else:
        wide = any(x.dtype in _WIDE and x.device.type == "cpu" for x in tensors)
        dtype = torch.float64 if wide else torch.float32
    there = {key: x for key, x in values.items() if isinstance(x, Tensor)}
    stacked = torch.stack([x if x.dtype is dtype and not x.ndim else _simplify(x, dtype) for x in there.values()])
    means = dict(zip(there, parallel.mean_over_processes(stacked.detach()).tolist(), strict=True))
    return {key: x if isinstance(x, float) else means[key] for key, x in values.items()}


def _simplify(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of one element as a scalar."""
    return x.detach().to(dtype).reshape(())


def _finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in map(to_local, model.parameters()))
