"""Boxes around things: what is read, and what becomes of those that are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stillhouse.errors import StillhouseError

__all__ = ["LOST", "fit_boxes", "read_boxes"]

LOST = "lost"
"""Of a target as it is kept: how many of its boxes were dropped, and how many cut off (2,); a batch has no such key."""
_ROUNDING = 1.0
"""Pixels outside the image that come of rounding, or of counting from 1."""


def read_boxes(value: Any, classes: int) -> dict[str, Tensor]:
    """Convert boxes and labels to ``{boxes: (N, 4) float32, labels: (N,) int64}``.

    Raises:
        StillhouseError: it is no such target, or a label is no class.
    """
    if not (isinstance(value, Mapping) and "boxes" in value and "labels" in value):
        what = f"a dict of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
        raise StillhouseError(
            f"the target must have boxes and labels, got {what}",
            hint="{ boxes: (N, 4) x1, y1, x2, y2 in pixels, labels: (N,) }",
        )
    try:
        boxes = torch.as_tensor(value["boxes"], dtype=torch.float32).as_subclass(Tensor)
        labels = torch.as_tensor(value["labels"], dtype=torch.int64).reshape(-1).as_subclass(Tensor).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise StillhouseError(f"boxes and labels must be numbers: {error}") from None
    if boxes.numel() and boxes.shape[-1] != 4:
        raise StillhouseError(f"boxes must be (N, 4), got {tuple(boxes.shape)}", hint="x1, y1, x2, y2 in pixels")
    boxes = boxes.reshape(-1, 4).clone()
    if len(boxes) != len(labels):
        raise StillhouseError(f"each box must have one label, got {len(boxes)} boxes and {len(labels)} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise StillhouseError(f"labels of boxes must be 0 to {classes - 1}, got {sorted(set(labels.tolist()))}")
    return {"boxes": boxes, "labels": labels}


def fit_boxes(target: Mapping[str, Tensor], height: int, width: int) -> dict[str, Tensor]:
    """Drop boxes without area in their image, and cut those that leave it off at its border.

    A single bad box, of the many that people draw, costs neither its image nor the run; how many there were is kept under
    ``lost``.

    Args:
        target: boxes (N, 4) and labels (N,).
        height: of the image, in pixels.
        width: likewise.
    """
    boxes = target["boxes"]
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    finite = boxes.isfinite().all(1)
    cut = torch.minimum(boxes.nan_to_num(0.0).clamp(min=0.0), limits)
    whole = finite & (boxes[:, 2:] > boxes[:, :2]).all(1)
    kept = whole & (cut[:, 2:] > cut[:, :2]).all(1)
    off = kept & ((boxes - cut).abs() > _ROUNDING).any(1)
    lost = torch.stack([(~kept).sum(), off.sum()])
    return {"boxes": torch.where(off[:, None], cut, boxes)[kept], "labels": target["labels"][kept], LOST: lost}
