"""Position embeddings of another grid: a transformer's that was trained on images of another size is interpolated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["fit_position_embeddings"]

_NAMED = re.compile(r"(^|[._])(pos|position)", re.I)
_MOST_TOKENS = 5
"""Tokens before those of patches: a class token, one of distillation, four registers."""


def fit_position_embeddings(model: nn.Module, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Interpolate what ``state`` has of learned positions (1, N, D) to the grid of ``model``, as Dosovitskiy et al. (2021) do.

    The tokens of patches are a grid in rows; those before them, of classes or registers, stay as they are. Grids are square,
    but for a model whose ``grid_size``, or its ``patch_embed``'s, says its own. Bicubic, antialiased where the grid shrinks.

    Args:
        model: whose state dict says which shapes are wanted.
        state: by the model's keys; not changed.

    Returns:
        The state with what could be interpolated in its place, and what was done, in words.
    """
    fitted, told = dict(state), []
    for key, own in model.state_dict().items():
        given = state.get(key)
        if not isinstance(given, Tensor) or given.shape == own.shape or not _NAMED.search(key):
            continue
        grids = _find_grids(model, given, own)
        if grids is None:
            continue
        extra, before, after = grids
        fitted[key] = _interpolate(given, extra, before, after)
        told.append(f"{key} interpolated from {before[0]}x{before[1]} patches to {after[0]}x{after[1]}")
    return fitted, told


def _find_grids(model: nn.Module, given: Tensor, own: Tensor) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """How many tokens come before the patches, and both grids; None where these are no grids."""
    if given.ndim != 3 or own.ndim != 3 or given.shape[::2] != own.shape[::2] or not given.is_floating_point():
        return None
    told: Any = getattr(getattr(model, "patch_embed", model), "grid_size", None)
    for extra in range(_MOST_TOKENS + 1):
        before, after = _square(given.shape[1] - extra), _square(own.shape[1] - extra)
        if told is not None and math.prod(told) == own.shape[1] - extra:
            after = (int(told[0]), int(told[1]))
        if before is not None and after is not None:
            return extra, before, after
    return None


def _square(n: int) -> tuple[int, int] | None:
    side = math.isqrt(max(n, 0))
    return (side, side) if side > 0 and side * side == n else None


def _interpolate(given: Tensor, extra: int, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    tokens, patches = given[:, :extra].float(), given[:, extra:].float()
    grid = patches.reshape(1, *before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, after, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([tokens, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1).to(given.dtype)
