"""Feature matrices of layers' outputs, whose spectrum is regularised."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stillhouse.layout import full_precision, name_layout, to_rows

__all__ = ["Pool", "to_feature_rows"]

Pool = Literal["mean", "none"]
"""``mean`` over the positions of tokens and maps, or ``none``: a row for each of them."""


def to_feature_rows(x: Tensor, pool: Pool = "mean") -> Tensor:
    """Return the feature matrix Z (R, C) of a layer's output, in float32 at least.

    Args:
        x: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W).
        pool: ``mean`` over positions: R = B; ``none``: R = B, B*N or B*H*W.

    Raises:
        StillhouseError: ``x`` is none of these layouts.
    """
    name_layout(x)
    with full_precision(x):
        dtype = torch.promote_types(x.dtype, torch.float32)
        if pool == "mean" and x.ndim == 4:
            return x.mean(dim=(2, 3), dtype=dtype)
        if pool == "mean" and x.ndim == 3:
            return x.mean(dim=1, dtype=dtype)
        return to_rows(x).to(dtype)
