"""How feature tensors are laid out, and the two views every method needs.

Three layouts, told apart by the number of dimensions: vectors (B, C), tokens (B, N, C) and maps (B, C, H, W).
Methods work on *rows*: one row of C channels per sample, per token or per position.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stillhouse.errors import StillhouseError

__all__ = ["channel_dim", "channels", "from_rows", "layout_of", "over_rows", "shape_text", "to_rows"]

_LAYOUTS = {2: "vectors (B, C)", 3: "tokens (B, N, C)", 4: "maps (B, C, H, W)"}


def layout_of(x: Tensor) -> str:
    """The layout's name, for messages.

    Raises:
        StillhouseError: ``x`` has fewer than 2 or more than 4 dimensions.
    """
    try:
        return _LAYOUTS[x.ndim]
    except KeyError:
        raise StillhouseError(
            f"features of shape {shape_text(x)} are no known layout",
            hint="features are vectors (B, C), tokens (B, N, C) or maps (B, C, H, W)",
        ) from None


def channel_dim(x: Tensor) -> int:
    """The index of the channel dimension: 1 for vectors and maps, 2 for tokens."""
    layout_of(x)
    return 2 if x.ndim == 3 else 1


def channels(x: Tensor) -> int:
    """The number of channels C of ``x``."""
    return x.shape[channel_dim(x)]


def to_rows(x: Tensor) -> Tensor:
    """``x`` as rows (R, C): R = B for vectors, B*N for tokens, B*H*W for maps (positions in row-major order)."""
    layout_of(x)
    if x.ndim == 4:
        x = x.movedim(1, -1)
    return x.reshape(-1, x.shape[-1])


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (R, D) back in the layout of ``like``, whose channel count may differ from D."""
    if like.ndim == 2:
        return rows
    if like.ndim == 3:
        return rows.reshape(like.shape[0], like.shape[1], -1)
    b, _, h, w = like.shape
    return rows.reshape(b, h, w, -1).movedim(-1, 1)


def over_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``function``, rows (R, C) -> rows (R, D), to ``x`` and give the result in the layout of ``x``."""
    return from_rows(function(to_rows(x)), x)


def shape_text(x: Tensor) -> str:
    """``(8, 64, 4, 4)``: a shape as it is written in messages."""
    return "(" + ", ".join(str(n) for n in x.shape) + ("," if x.ndim == 1 else "") + ")"
