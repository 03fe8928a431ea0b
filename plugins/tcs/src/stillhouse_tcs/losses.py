"""The mimicking losses, on tensors alone; all in float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.layout import full_precision

__all__ = ["elsh", "pca_mse", "soft_targets"]


def pca_mse(student: Tensor, teacher: Tensor, live: Tensor, energy: Tensor) -> Tensor:
    """sum_j (c_s - c_t)^2 over the live dimensions, mean over the batch, over the mean of sum_j c_t^2: a scalar.

    1 is what a student whose coordinates are all 0 has on average while every dimension is live.

    Args:
        student: c_s (B, k).
        teacher: c_t (B, k).
        live: 1 or 0 (k,).
        energy: the mean of sum_j c_t^2 over the training samples, a scalar.
    """
    with full_precision(student):
        return ((student.float() - teacher.float()).square() * live).sum(1).mean() / energy


def elsh(student: Tensor, bits: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of the student's hashes with the teacher's bits, mean over batch and hashes: a scalar.

    Source: 2412.09388, after the LSH loss of 2011.01424.

    Args:
        student: features in the teacher's space (B, d_t).
        bits: the teacher's (B, H), 0 or 1.
        vectors: the hash (d_t, H), Gaussian, standard deviation 1/sqrt(d_t).
        bias: (H,), minus the median of the teacher's hashes.
    """
    with full_precision(student):
        return F.binary_cross_entropy_with_logits(torch.addmm(bias, student.float(), vectors), bits.float())


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t/T) || softmax(s/T)), mean over the batch: a scalar. Source: 1503.02531.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: T.
    """
    with full_precision(student):
        s = F.log_softmax(student.float() / temperature, 1)
        t = F.log_softmax(teacher.float() / temperature, 1)
        out = t == -math.inf  # classes that the teacher rules out: p log p is 0
        s, t = s.masked_fill(out, 0.0), t.masked_fill(out, 0.0)
        return F.kl_div(s, t, log_target=True, reduction="batchmean") * temperature**2
