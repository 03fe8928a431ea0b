"""Standardisation, length and scale: the normalisations that need no matrix factorisation. All work on rows (R, C)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse import StillhouseError

__all__ = [
    "MANY",
    "require_two_rows",
    "scale_to_unit_length",
    "scale_to_unit_rms",
    "standardise_channels",
    "standardise_rows",
    "standardise_together",
]

MANY = 4
"""From so many features on :func:`standardise_together` is the faster way."""


def standardise_rows(rows: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardise each row (R, C) to mean 0 and variance 1 over its C channels, without affine parameters.

    (x - mean) / sqrt(var + eps), var with the divisor C. Source: VkD's ImageNet code, ``F.layer_norm``.
    """
    return F.layer_norm(rows, rows.shape[-1:], eps=eps)


def standardise_together(features: Sequence[Tensor], eps: float = 1e-5) -> Sequence[Tensor] | None:
    """:func:`standardise_rows` of each of ``features``, bit for bit, in one call.

    None where that would not be the same: for anything but vectors (B, C) of one shape in float32, and with gradient,
    which would make each of the results depend on all of ``features``.
    """
    if features[0].ndim != 2 or len({x.shape for x in features}) > 1 or {x.dtype for x in features} != {torch.float32}:
        return None
    rows = torch.cat(tuple(features))
    return None if rows.requires_grad else torch.split(standardise_rows(rows, eps), len(features[0]))


def standardise_channels(rows: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardise each channel to mean 0 and variance 1 over the rows (R, C) of the batch; a constant one becomes 0.

    (x - mean) / sqrt(var + eps), var with the divisor R - 1. Source: VkD's detection code, which standardises over
    batch and space with the unbiased standard deviation.

    Raises:
        StillhouseError: there is one row only.
    """
    require_two_rows(rows.shape[0], "batch")
    variance, mean = torch.var_mean(rows, dim=0, correction=1)
    # eps under the root: sqrt of 0 has an infinite gradient.
    return (rows - mean) * torch.rsqrt(variance + eps)


def scale_to_unit_length(rows: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row (R, C) by its Euclidean length, or by ``eps`` where it is no longer than that.

    So short a row has no direction, and gets no gradient: that of ``F.normalize`` is 1 / eps there.
    """
    square = rows.square().sum(-1, keepdim=True)
    directed = square > eps * eps
    scaled = rows * torch.where(directed, square, 1.0).rsqrt()
    return torch.where(directed, scaled, rows.detach() / eps)


def scale_to_unit_rms(rows: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide all rows (R, C) by one number, so that their mean square is 1: directions and proportions stay.

    x / sqrt(mean of x^2 over the batch and its channels + eps).
    """
    return rows * torch.rsqrt(rows.square().mean() + eps)


def require_two_rows(rows: int, kind: str) -> None:
    """Check that batch statistics exist.

    Raises:
        StillhouseError: ``rows`` is below 2.
    """
    if rows < 2:
        raise StillhouseError(
            f"kind = {kind!r} needs at least 2 rows in a batch, got {rows}",
            hint="use a larger batch, drop the last incomplete one, read maps or tokens instead of pooled vectors, or "
            'take kind = "layer", which needs none',
        )
