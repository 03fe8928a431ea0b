"""Losses of detectors that divide by the foreground of their batch, when the batch is spread over several processes."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from stillhouse.distributed import processes as parallel

__all__ = ["compute_losses"]


def compute_losses(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
    """A detector's losses, such that their mean over processes is what one process gives for the whole batch.

    torchvision's FCOS and SSD divide their sums by the number of anchors that a box was assigned to, in the batch they
    see. In several processes they are multiplied by that number here, and divided by its mean over processes. RetinaNet
    takes means over images, which are averaged as they are; so are the losses of any other model.

    Args:
        model: in training, called as torchvision's detectors are.
        images: (C, H, W) each.
        targets: ``{boxes, labels}`` each.
    """
    divider = _find_divider(model) if parallel.is_distributed() else None
    if divider is None:
        return model(images, targets)
    found: list[Tensor] = []
    compute: Any = divider.compute_loss

    def counting(targets: Any, head_outputs: Any, anchors: Any, matched_idxs: list[Tensor]) -> Any:
        found.extend(matched_idxs)
        return compute(targets, head_outputs, anchors, matched_idxs)

    divider.compute_loss = counting  # type: ignore[assignment]  # on the module itself, for this call
    try:
        losses = model(images, targets)
    finally:
        del divider.compute_loss
    own = torch.cat([indices.flatten() >= 0 for indices in found]).sum().float()
    # Both numbers are at least 1 there: a batch without foreground is not divided.
    factor = own.clamp(min=1) / parallel.mean_over_processes(own).clamp(min=1 / idist.get_world_size())
    return {name: value * factor for name, value in losses.items()}


def _find_divider(model: nn.Module) -> nn.Module | None:
    """The module whose ``compute_loss`` gets the assignment and divides by its foreground."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.ssd import SSD

    found = next((module for module in model.modules() if isinstance(module, FCOS | SSD)), None)
    return found.head if isinstance(found, FCOS) else found
