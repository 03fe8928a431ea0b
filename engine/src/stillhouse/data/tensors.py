"""Conversion of arrays and tensors, one by one or stacked, to uint8 from 0 to 255 or float32 from 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.errors import StillhouseError

__all__ = ["DEEPEST", "convert_array", "convert_stacked", "convert_tensor"]

DEEPEST = 65535
"""The greatest value of 16 bits."""


def convert_tensor(x: Tensor) -> Tensor:
    """Convert one input: (C, H, W), (H, W), which gets a channel, a vector (D,), or of another number of dimensions.

    Raises:
        StillhouseError: a single number, no values, or of another layout or dtype than what can be trained on.
    """
    if x.layout is not torch.strided or x.is_meta:
        kind = "a meta tensor" if x.is_meta else f"one of layout {str(x.layout).removeprefix('torch.')}"
        raise StillhouseError(f"the input must be a dense tensor, got {kind}", hint="x.to_dense()")
    tensor: Tensor = x.detach().as_subclass(Tensor).resolve_neg().cpu()
    if tensor.numel() == 0:
        raise StillhouseError(f"the input has no values: its shape is {tuple(tensor.shape)}")
    if tensor.ndim == 0:
        raise StillhouseError("the input must be an image (C, H, W) or a vector (D,), got a single number")
    converted = _convert_dtype(tensor[None] if tensor.ndim == 2 else tensor)
    if converted is None:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise StillhouseError(f"the input must be uint8 (0 to 255) or floats, got {kind}")
    return converted


def convert_stacked(x: Tensor) -> Tensor | None:
    """Convert tensors of many inputs (N, ...) at once, as :func:`convert_tensor` does each; None where it refuses them."""
    if x.ndim < 2 or x.layout != torch.strided or x.is_meta or (len(x) and not x.numel()):
        return None
    x = x.detach().as_subclass(Tensor).resolve_neg()
    return _convert_dtype(x[:, None] if x.ndim == 3 else x)


def _convert_dtype(x: Tensor) -> Tensor | None:
    """Convert to float32 what is not uint8; None for other whole numbers."""
    if x.is_floating_point():
        return x.float()
    if x.dtype == torch.uint16:
        return x.float().div_(DEEPEST)
    return x if x.dtype == torch.uint8 else None


def convert_array(array: np.ndarray[Any, Any]) -> Tensor:
    """Convert an array (H, W), (H, W, C) or (C, H, W), where C is 1, 3 or 4, to a tensor of the machine's byte order.

    Raises:
        StillhouseError: another shape or dtype.
    """
    if array.ndim == 3:
        if array.shape[2] in (1, 3, 4):
            array = array.transpose(2, 0, 1)
        elif array.shape[0] not in (1, 3, 4):
            raise StillhouseError(
                f"the input must be (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got an array {array.shape}"
            )
    try:
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))  # FITS has the other order
    except TypeError:
        raise StillhouseError(f"the input must be uint8 (0 to 255) or floats, got {array.dtype}") from None
