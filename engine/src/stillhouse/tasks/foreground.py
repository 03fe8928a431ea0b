"""Losses of torchvision's detectors: of the images that have boxes told, and of several processes as of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.nested import slice_rows

__all__ = ["compute_losses"]


def compute_losses(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]], labelled: int | None = None
) -> Any:
    """A detector's losses, such that their mean over processes is what one process gives for the whole batch.

    torchvision's FCOS and SSD divide their sums by the number of anchors that a box was assigned to, in the batch they
    see. In several processes they are multiplied by that number here, and divided by its mean over processes. RetinaNet
    takes means over images, which are averaged as they are; so are the losses of any other model.

    All images go through the backbone together, unlabelled ones too, and through the heads of a detector of one stage. Of two
    stages those after the backbone see the labelled ones alone: what they propose depends on targets.

    Args:
        model: in training, called as torchvision's detectors are.
        images: (C, H, W) each.
        targets: ``{boxes, labels}`` each.
        labelled: how many of the images, the first ones, have targets that mean something, and are in the losses; None: all.

    Raises:
        StillhouseError: only some are labelled, and the model is none of torchvision's detectors.
    """
    owner = _find_owner(model)
    divides = owner is not None and _divides(model) and parallel.is_distributed()
    matched: list[Tensor] = []
    with ExitStack() as stack:
        if owner is not None and (divides or labelled is not None):
            stack.enter_context(_watch_loss(owner, labelled, len(images), matched))
        elif labelled is not None:
            stack.enter_context(_narrow_stages(model, labelled, len(images)))
        losses = model(images, targets)
    if not divides:
        return losses
    own = torch.cat([indices.flatten() >= 0 for indices in matched]).sum().float()
    # Both numbers are at least 1 there: a batch without foreground is not divided.
    factor = own.clamp(min=1) / parallel.mean_over_processes(own).clamp(min=1 / idist.get_world_size())
    return {name: value * factor for name, value in losses.items()}


@contextmanager
def _watch_loss(owner: Any, labelled: int | None, size: int, matched: list[Tensor]) -> Iterator[None]:
    """Let ``owner.compute_loss`` see the first ``labelled`` of ``size`` images, and note what boxes were assigned to."""
    compute = owner.compute_loss

    def compute_labelled(*given: Any) -> Any:  # targets, head_outputs, anchors, matched_idxs
        seen = given if labelled is None else slice_rows(given, slice(labelled), size)
        matched.extend(seen[-1])
        return compute(*seen)

    owner.compute_loss = compute_labelled  # on the module itself, for this call
    try:
        yield
    finally:
        del owner.compute_loss


@contextmanager
def _narrow_stages(model: nn.Module, labelled: int, size: int) -> Iterator[None]:
    """Let the stages after a detector's backbone see the first ``labelled`` of ``size`` images."""
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.image_list import ImageList

    def narrow(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = slice(labelled)
        return tuple(
            ImageList(each.tensors[rows], each.image_sizes[rows])
            if isinstance(each, ImageList)
            else slice_rows(each, rows, size)
            for each in given
        )

    found = next((module for module in model.modules() if isinstance(module, GeneralizedRCNN)), None)
    if found is None:
        raise StillhouseError(
            f"{type(model).__name__} cannot be told which images have no boxes: it is none of torchvision's detectors",
            where="student",
            hint='leave `unlabelled` and `pool` out of [data], or distil first: [task] name = "distillation"',
        )
    stages: tuple[Any, ...] = (found.rpn, found.roi_heads)
    hooks = [stage.register_forward_pre_hook(narrow) for stage in stages]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _find_owner(model: nn.Module) -> nn.Module | None:
    """The module of a detector of one stage whose ``compute_loss`` gets what boxes were assigned to."""
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.ssd import SSD

    found = next((module for module in model.modules() if isinstance(module, FCOS | RetinaNet | SSD)), None)
    return found.head if isinstance(found, FCOS | RetinaNet) else found


def _divides(model: nn.Module) -> bool:
    """Whether its sums are divided by the foreground of the batch."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.ssd import SSD

    return any(isinstance(module, FCOS | SSD) for module in model.modules())
