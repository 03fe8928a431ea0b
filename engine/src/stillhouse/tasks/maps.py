"""Maps and vectors of tasks' outputs: resized to the targets, checked in shape, with the names of classes."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape

__all__ = ["check_ignored", "get_class_name", "is_map_of", "require_map", "require_vector", "resize_map"]


def get_class_name(data: DataInfo, label: int) -> str:
    """Return a class's name; its number where the data has no names."""
    return data.class_names[label] if label < len(data.class_names) else str(label)


def is_map_of(teacher: Any, output: Tensor) -> TypeGuard[Tensor]:
    """Whether a teacher's output can be shown as the student's: a map of the same channels, in any size."""
    return isinstance(teacher, Tensor) and teacher.ndim == output.ndim and teacher.shape[:-2] == output.shape[:-2]


def check_ignored(data: DataInfo, ignore_index: int) -> None:
    """Refuse a task that would learn the value by which the data marks pixels without a label.

    Raises:
        StillhouseError: the two differ.
    """
    if data.ignore is not None and data.ignore != ignore_index:
        raise StillhouseError(
            f"must be the data's `ignore`, {data.ignore}, got {ignore_index}",
            where="task.args.ignore_index",
            hint=f"args = {{ ignore_index = {data.ignore} }}",
        )


def resize_map(output: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize a map (B, C, h, w) to ``size`` (H, W) by bilinear interpolation where it differs; float32."""
    output = output.float()
    if tuple(output.shape[-2:]) == tuple(size):
        return output
    return F.interpolate(output, size=tuple(size), mode="bilinear", align_corners=False)


def require_map(output: Any, channels: int, task: str) -> None:
    """Refuse an output that is not a map (B, ``channels``, H, W).

    Raises:
        StillhouseError: with a hint at a model that fits.
    """
    wanted = f"{task} needs a map (B, {channels}, H, W)"
    _require_tensor(output, wanted)
    if output.ndim != 4:
        raise StillhouseError(
            f"{wanted}, got {format_shape(output)}",
            where="student",
            hint="a model with a decoder, which gives a value at each pixel",
        )
    if output.shape[1] != channels:
        raise StillhouseError(
            f"{wanted}, got {output.shape[1]} channels",
            where="student",
            hint=f"args = {{ num_classes = {channels} }}",
        )


def require_vector(output: Any, numbers: int, task: str) -> None:
    """Refuse an output that is not (B, ``numbers``).

    Raises:
        StillhouseError: with a hint at a model that fits.
    """
    wanted = f"{task} needs (B, {numbers})"
    _require_tensor(output, wanted)
    if output.ndim != 2:
        raise StillhouseError(
            f"{wanted}, got {format_shape(output)}",
            where="student",
            hint="a model that ends in a linear layer, such as a classifier",
        )
    if output.shape[1] != numbers:
        raise StillhouseError(
            f"{wanted}, got {output.shape[1]} numbers",
            where="student",
            hint=f"args = {{ num_classes = {numbers} }}",
        )


def _require_tensor(output: Any, wanted: str) -> None:
    if not isinstance(output, Tensor):
        raise StillhouseError(
            f"{wanted}, got {type(output).__name__}",
            where="student",
            hint="wrap the model in one whose forward returns that tensor",
        )
