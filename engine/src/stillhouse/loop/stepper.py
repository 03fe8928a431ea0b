"""From a batch to an optimizer step: in one piece, or in parts, scaled, clipped, and averaged over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from stillhouse.contract.assembly import Facts
from stillhouse.contract.batch import Batch
from stillhouse.contract.sealed import Losses, put
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import clip, is_sharded
from stillhouse.loop.composition import Composition
from stillhouse.loop.gradients import TermGradients
from stillhouse.loop.step import new_step
from stillhouse.nested import divide_rows, slice_rows

__all__ = ["Stepper", "split"]


class Stepper:
    """Computes a batch's gradients and takes the optimizer's step.

    Args:
        facts: of the run, with its recipe's ``accumulate``, ``precision`` and ``clip_norm``.
        composition: what turns a part of a batch into losses.
        optimizer: steps after the gradients of all parts are there.

    Attributes:
        scaler: scales float16 losses; disabled for any other precision. Part of the checkpoint.
        gradient_norm: of the last step before clipping, a scalar on the device; None where nothing is clipped.
    """

    def __init__(self, facts: Facts, composition: Composition, optimizer: Optimizer) -> None:
        spec = facts.recipe
        self._facts, self._composition, self._optimizer = facts, composition, optimizer
        self._parts = spec.run.accumulate
        self._clip = spec.optimizer.clip_norm
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(facts.device.type, enabled=spec.run.precision == "float16")
        self._scales = self.scaler.is_enabled()
        self.gradient_norm: Tensor | None = None
        call = composition.combiner
        self._by_term = None if call is None else TermGradients(composition, call, self.scaler)
        # Not through nn.Module.__call__, which looks for hooks at the price of a plugin: what wants to hear of this forward
        # pass has two events for it.
        self._forward: Callable[[Step], Tensor] = composition.forward
        self._wrapper: DistributedDataParallel | None = None
        self._unwrapped: list[nn.Parameter] = []
        self._several = parallel.is_distributed()
        self._is_usual = self._parts == 1 and not (self._several or self._scales or call)
        if self._several:
            self._wrap()

    def go_forward_with(self, forward: Callable[[Step], Tensor]) -> None:
        """Have ``forward`` do what the composition's does, from now on: fill a step and return its total loss."""
        self._forward = forward

    def _wrap(self) -> None:
        """DDP around the whole composition; where FSDP shards the student, the plugins' gradients are averaged here."""
        if is_sharded(self._composition.student):
            self._unwrapped = [p for p in self._composition.plugins.parameters() if p.requires_grad]
            return
        unused = self._facts.recipe.distributed.find_unused
        finds = self._composition.terms.switch_off if unused == "auto" else unused == "yes"
        self._wrapper = DistributedDataParallel(self._composition, find_unused_parameters=finds)
        self._forward = self._wrapper

    def gradients(self, batch: Batch, iteration: int, epoch: int, state: Any) -> tuple[Step, Tensor]:
        """Compute the gradients of ``batch``.

        Args:
            batch: this process's share.
            iteration: optimizer steps done before, from 0.
            epoch: epochs begun before, from 0.
            state: its ``step`` is each part's before that goes forward; the part before has let go of its tensors by then.

        Returns:
            The last part's step, whose losses are those of the whole batch, and their weighted sum; both are this
            process's own contribution to the mean over processes.
        """
        composition = self._composition
        if self._is_usual and not composition.terms.hooks.prepares:
            # It is short, and between torch's kernels each call and each look costs about a microsecond.
            step = state.step = new_step(batch, composition, iteration, epoch)
            return step, self._pass(step)
        steps = [new_step(part, composition, iteration, epoch) for part in split(batch, self._parts)]
        if composition.terms.hooks.prepares:
            composition.prepare(steps)
        if self._several or len(steps) > 1:  # a batch in one piece and one process is its own mean
            self._share(steps)
        if self._by_term is not None and self._wrapper is not None:
            # The first process's buffers are everybody's in each step: DDP sends them after a pass that synchronises alone.
            self._wrapper.require_forward_param_sync = True
        reported: dict[str, Tensor] = {}
        sums: list[Tensor] = []
        for step in steps:
            state.step = step
            # Averages over processes wait for the last part's backward pass; those of the terms' own are not DDP's to take.
            if self._wrapper is None or (step is steps[-1] and self._by_term is None):
                total = self._pass(step)
            else:
                with self._wrapper.no_sync():
                    total = self._pass(step)
            if step.share is not None:
                _report(step, step.share, reported)
                sums.append(total.detach())
            if step is not steps[-1]:
                step.let_go()
                put(step, "losses", Losses())
        if sums:
            total = sum(sums[1:], sums[0])
            put(step, "losses", Losses(reported))
            put(step, "total", total)
        if len(steps) > 1:
            put(step, "_parts", tuple(steps))
        if self._by_term is not None:
            self._by_term.combine(step)
        elif self._unwrapped:
            parallel.average_gradients(self._unwrapped)
        if self._scales:
            self.scaler.unscale_(self._optimizer)  # plugins that look at gradients see them as they are
        return step, total

    def _share(self, steps: list[Step]) -> None:
        """Settle what each part counts: the task's loss by what the task counts over all processes, other terms by samples."""
        own = sum(len(step.ids) for step in steps)
        by_samples = [len(step.ids) / own for step in steps]
        counts = [self._facts.task.count(step.targets) for step in steps]
        counted = [count for count in counts if count is not None]
        if not counted:
            for step, share in zip(steps, by_samples, strict=True):
                put(step, "share", (share, share))
            return
        mean = parallel.mean_over_processes(torch.stack(counted).sum().float()).clamp(min=1e-6)
        for step, count, share in zip(steps, counted, by_samples, strict=True):
            put(step, "share", (count / mean, share))

    def _pass(self, step: Step) -> Tensor:
        """Forward and backward; the total loss."""
        total = self._forward(step)
        computed = self._composition.losses_computed
        if computed.calls or computed.event in computed.handlers:
            computed.emit(step)
        if self._by_term is not None:
            self._by_term.backward(step)
        else:
            scaled = self.scaler.scale(total) if self._scales else total
            scaled.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        return total

    def update(self) -> None:
        """Clip, where asked for, and let the optimizer step; a float16 step whose gradients overflowed is left out."""
        if self._clip is not None:
            self.gradient_norm = clip(self._parameters, self._clip)
        if self._scales:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        else:
            self._optimizer.step()


def _report(step: Step, share: tuple[Tensor | float, float], reported: dict[str, Tensor]) -> None:
    """Add the losses of a part, as far as they count, to those ``reported``."""
    for name, value in step.losses.items():
        own = value.detach() * (share[0] if name == "task" else share[1])
        reported[name] = reported[name] + own if name in reported else own


def split(batch: Batch, parts: int) -> list[Batch]:
    """``batch`` in up to ``parts`` parts of nearly one size, none of a single sample: batch statistics need two."""
    n = len(batch.id)
    parts = max(1, min(parts, n // 2))
    if parts == 1:
        return [batch]
    return [slice_rows(batch, rows, n) for rows in divide_rows(batch.target, n, parts)]
