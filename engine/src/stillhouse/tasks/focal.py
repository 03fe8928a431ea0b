"""Focal loss: samples that are known already count less."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compute_focal_loss"]

_LEAST = 1e-7
"""Of 1 - p, so that a power below 1 has a finite slope."""


def compute_focal_loss(
    logits: Tensor, targets: Tensor, gamma: float, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The focal loss of each sample, sum over the classes of t w (1 - p)^gamma (-log p); Lin et al. (2017), eq. 5.

    Theirs has one class, t = 1; smoothed and mixed targets have shares of several.

    Args:
        logits: (B, C), float32.
        targets: indices (B,), or shares (B, C).
        gamma: the exponent; 0 is cross-entropy.
        weight: factors of the classes (C,).
        label_smoothing: share of the target spread evenly over the classes.

    Returns:
        (B,).
    """
    shares = targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])
    shares = shares.to(logits.dtype) * (1.0 - label_smoothing) + label_smoothing / logits.shape[1]
    log_p = logits.log_softmax(1)
    unknown = torch.expm1(log_p).neg().clamp(min=_LEAST) ** gamma
    weighted = shares if weight is None else shares * weight
    return -(weighted * unknown * log_p).sum(1)
