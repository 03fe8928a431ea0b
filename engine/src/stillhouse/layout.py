"""Layouts of feature tensors, the conversion to rows and back, and the precision in which rows are computed.

Three layouts, told apart by the number of dimensions: vectors (B, C), tokens (B, N, C) and maps (B, C, H, W).
Methods work on *rows*: one row of C channels per sample, per token or per position.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from stillhouse.errors import StillhouseError

__all__ = [
    "channel_dim",
    "channels",
    "format_shape",
    "from_rows",
    "full_precision",
    "map_rows",
    "name_layout",
    "to_rows",
]

_NOTHING: AbstractContextManager[Any] = nullcontext()

_LAYOUTS = {2: "vectors (B, C)", 3: "tokens (B, N, C)", 4: "maps (B, C, H, W)"}


def name_layout(x: Tensor) -> str:
    """Return the layout's name, for messages.

    Raises:
        StillhouseError: ``x`` has fewer than 2 or more than 4 dimensions.
    """
    try:
        return _LAYOUTS[x.ndim]
    except KeyError:
        raise StillhouseError(
            f"features must be vectors (B, C), tokens (B, N, C) or maps (B, C, H, W), got shape {format_shape(x)}"
        ) from None


def channel_dim(x: Tensor) -> int:
    """Return the index of the channel dimension: 1 for vectors and maps, 2 for tokens."""
    name_layout(x)
    return 2 if x.ndim == 3 else 1


def channels(x: Tensor) -> int:
    """Return the number of channels C of ``x``."""
    return x.shape[channel_dim(x)]


def to_rows(x: Tensor) -> Tensor:
    """Return ``x`` as rows (R, C): R = B for vectors, B*N for tokens, B*H*W for maps (positions in row-major order)."""
    name_layout(x)
    if x.ndim == 4:
        x = x.movedim(1, -1)
    return x.reshape(-1, x.shape[-1])


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows (R, D) in the layout of ``like``, whose channel count may differ from D."""
    if like.ndim == 2:
        return rows
    if like.ndim == 3:
        return rows.reshape(like.shape[0], like.shape[1], -1)
    b, _, h, w = like.shape
    return rows.reshape(b, h, w, -1).movedim(-1, 1)


def map_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``function``, rows (R, C) -> rows (R, D), to ``x`` and return the result in the layout of ``x``."""
    return from_rows(function(to_rows(x)), x)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves operations on the device of ``x`` alone.

    Entering autocast takes ten times as long as the look whether it is on, and in a step it is not.
    """
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING


def format_shape(x: Tensor) -> str:
    """Format a shape for messages: ``(8, 64, 4, 4)``."""
    return "(" + ", ".join(str(n) for n in x.shape) + ("," if x.ndim == 1 else "") + ")"
