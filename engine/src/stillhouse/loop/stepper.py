"""From a batch to an optimizer step: in one piece, or in parts, scaled, clipped, and averaged over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from stillhouse.contract.assembly import Facts
from stillhouse.contract.batch import Batch
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import clip, is_sharded
from stillhouse.loop.composition import Composition
from stillhouse.loop.step import new_step
from stillhouse.nested import rows_of

__all__ = ["Stepper", "split"]


class Stepper:
    """Computes a batch's gradients and takes the optimizer's step.

    Args:
        facts: of the run, with its recipe's ``accumulate``, ``precision`` and ``clip_norm``.
        composition: what turns a part of a batch into losses.
        optimizer: steps after the gradients of all parts are there.

    Attributes:
        plain: one process, the batch in one piece, no scaling, no clipping: the trainer does these steps itself.
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
        self.gradient_norm: Tensor | None = None
        self.plain = not (parallel.several() or self._parts > 1 or self._clip is not None or self.scaler.is_enabled())
        self._forward: Callable[[Step], Tensor] = composition.forward
        self._wrapper: DistributedDataParallel | None = None
        self._unwrapped: list[nn.Parameter] = []
        if parallel.several():
            self._wrap()

    def _wrap(self) -> None:
        """DDP around the whole composition; where FSDP shards the student, the plugins' gradients are averaged here."""
        if is_sharded(self._composition.student):
            self._unwrapped = [p for p in self._composition.plugins.parameters() if p.requires_grad]
            return
        unused = self._facts.recipe.distributed.find_unused
        self._wrapper = DistributedDataParallel(
            self._composition,
            find_unused_parameters=self._composition.terms_switch_off if unused == "auto" else unused == "yes",
        )
        self._forward = self._wrapper

    def gradients(self, batch: Batch, iteration: int, epoch: int, begin: Callable[[Step], None]) -> tuple[Step, Tensor]:
        """Compute the gradients of ``batch``.

        Args:
            batch: this process's share.
            iteration: optimizer steps done before, from 0.
            epoch: epochs begun before, from 0.
            begin: told of each part's step before it goes forward; clears the one before.

        Returns:
            The last part's step, whose losses are those of the whole batch, and their weighted sum; both are this
            process's own contribution to the mean over processes.
        """
        batch = new_step(batch, self._facts.device, self._composition, iteration, epoch).batch
        parts = list(split(batch, self._parts))
        shares = self._shares(batch, parts)
        reported: dict[str, Tensor] = {}
        total = None
        for index, (part, (task_share, terms_share)) in enumerate(zip(parts, shares, strict=True)):
            step = new_step(part, self._facts.device, self._composition, iteration, epoch)
            step.share = (task_share, terms_share)
            begin(step)
            with self._unsynchronised(last=index == len(parts) - 1):
                loss = self._forward(step)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            for name, value in step.losses.items():
                own = value.detach() * (task_share if name == "task" else terms_share)
                reported[name] = reported[name] + own if name in reported else own
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None  # a batch has at least one part
        step.losses, step.total = reported, total
        parallel.average_gradients(self._unwrapped)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self._optimizer)  # plugins that look at gradients see them as they are
        return step, total

    def _shares(self, batch: Batch, parts: list[Batch]) -> list[tuple[Tensor | float, float]]:
        """What each part counts: the task's loss by what the task counts over all processes, other terms by samples."""
        own = len(batch.id)
        by_samples = [len(part.id) / own for part in parts]
        count = self._facts.task.count(batch.target)
        if count is None:
            return [(share, share) for share in by_samples]
        mean = parallel.mean_over_processes(count.float()).clamp(min=1e-6)
        counts = [count] if len(parts) == 1 else [self._facts.task.count(part.target) for part in parts]
        return [(c / mean, share) for c, share in zip(counts, by_samples, strict=True) if c is not None]

    def _unsynchronised(self, *, last: bool) -> AbstractContextManager[Any]:
        """Averages over processes wait for the last part's backward pass."""
        if self._wrapper is None or last:
            return nullcontext()
        return self._wrapper.no_sync()

    def update(self) -> None:
        """Clip, where asked for, and let the optimizer step; a float16 step whose gradients overflowed is left out."""
        if self._clip is not None:
            self.gradient_norm = clip(self._parameters, self._clip)
        self.scaler.step(self._optimizer)
        self.scaler.update()


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """``batch`` in up to ``parts`` parts of nearly one size, none of a single sample: batch statistics need two."""
    n = len(batch.id)
    parts = max(1, min(parts, n // 2))
    bounds = [round(i * n / parts) for i in range(parts + 1)]
    if parts == 1:
        yield batch
        return
    for start, end in pairwise(bounds):
        yield Batch(*(rows_of(value, start, end, n) for value in batch))
