"""A batch on its device, as a step."""

from __future__ import annotations

import torch

from stillhouse.contract.batch import Batch
from stillhouse.contract.protocols import Composed
from stillhouse.contract.step import Step
from stillhouse.nested import over_tensors

__all__ = ["new_step"]


def new_step(batch: Batch, device: torch.device, composition: Composed, iteration: int, epoch: int) -> Step:
    """A step for ``batch``, moved to ``device`` with targets of any kind; the ids stay on the CPU."""
    if device.type != "cpu":
        inputs, targets = over_tensors(lambda x: x.to(device, non_blocking=True), (batch.input, batch.target))
        batch = Batch(inputs, targets, batch.id)
    if composition.channels_last and batch.input.ndim == 4:
        batch = batch._replace(input=batch.input.contiguous(memory_format=torch.channels_last))
    return Step(batch, batch.id, batch.input, batch.target, iteration, epoch, composition)
