"""What a detector is, and its backbone alone, for what is learnt without boxes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from stillhouse.errors import StillhouseError

__all__ = ["call_backbone", "is_detector"]


def is_detector(model: nn.Module) -> bool:
    """Whether it is called as torchvision's detectors are: ``forward(images, targets=None)``."""
    return "targets" in inspect.signature(model.forward).parameters


def call_backbone(model: nn.Module, inputs: Tensor) -> Tensor:
    """The last of the maps (B, C, h, w) that a detector's backbone makes of a batch (B, C, H, W), prepared as it prepares them.

    Raises:
        StillhouseError: it has no ``transform`` and ``backbone``, where torchvision's detectors have them.
    """
    transform, backbone = (getattr(model, name, None) for name in ("transform", "backbone"))
    if transform is None or backbone is None:
        raise StillhouseError(
            f"{type(model).__name__} needs boxes to be trained, and has no `transform` and `backbone` to be trained without",
            where="student",
            hint="one of torchvision's detectors, or its encoder as a model of its own",
        )
    images, _ = transform(list(inputs))
    maps = backbone(images.tensors)
    found: Tensor = list(maps.values())[-1] if isinstance(maps, Mapping) else maps
    return found
