"""The distance of two feature tensors of one shape."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse.layout import channels, format_shape, full_precision, to_rows

__all__ = ["Distance", "distance"]

Distance = Literal["mse", "smooth_l1", "cosine"]
"""The kinds of :func:`distance`."""

_SMALL = 1e-6
"""Rows whose norm is at most this have no direction."""


def distance(student: Tensor, teacher: Tensor, kind: Distance = "mse", *, beta: float = 1.0) -> Tensor:
    """The distance of ``student`` from ``teacher``: a scalar, in float32 at least. Gradient flows into both.

    ``mse``: the mean squared difference over all elements (as FitNets' hint loss, Romero et al. 2015, 1412.6550,
    equation 3, but per element; VkD, 2403.06213, in its poster). ``smooth_l1``: the Huber-like loss, quadratic below
    ``beta``, mean over all elements (VkD's released ImageNet code). ``cosine``: 1 - cosine of the two rows of channels,
    mean over rows (samples, tokens or positions); a row that is zero on either side counts 1 and gets no gradient.

    Args:
        student: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W).
        teacher: the same shape.
        kind: ``mse``, ``smooth_l1`` or ``cosine``.
        beta: where ``smooth_l1`` goes from quadratic to linear; 0 makes it the mean absolute difference.

    Raises:
        StillhouseError: the shapes differ; ``kind`` or ``beta`` is not one of these.
    """
    if kind == "mse" and student.shape == teacher.shape and student.dtype is torch.float32 is teacher.dtype:
        # What most steps ask for, float32 whatever autocast says. F.mse_loss first expands either side to the shape that it has,
        # which takes half as long again, and an autograd node each. 1: the mean.
        return torch._C._nn.mse_loss(student, teacher, 1)  # type: ignore[arg-type]  # torch's stub takes a number for text
    if student.shape != teacher.shape:
        same_layout = student.ndim == teacher.ndim
        hint = (
            "add the plugin 'projector', which maps one side into the other's feature space"
            if same_layout and channels(student) != channels(teacher)
            else "pool both sides"
        )
        raise StillhouseError(
            f"student and teacher features must have one shape: {format_shape(student)} and {format_shape(teacher)} differ",
            hint=hint,
        )
    with full_precision(student):
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        s, t = student.to(dtype), teacher.to(dtype)
        if kind == "mse":
            return F.mse_loss(s, t)
        if kind == "smooth_l1":
            if not beta >= 0.0:
                raise StillhouseError(f"must be >= 0, got {beta}", where="beta")
            return F.smooth_l1_loss(s, t, beta=beta)
        if kind == "cosine":
            return (1.0 - _cosine(to_rows(s), to_rows(t))).mean()
    raise StillhouseError(f"kind must be 'mse', 'smooth_l1' or 'cosine', got {kind!r}")


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows (R, C) -> (R,); 0 without gradient where a row has no direction.

    F.cosine_similarity divides by its eps there, so that a dead row would get a gradient of 1e8.
    """
    aa, bb = (a * a).sum(1), (b * b).sum(1)
    directed = (aa > _SMALL**2) & (bb > _SMALL**2)
    one = torch.ones_like(aa)
    cosine = (a * b).sum(1) * torch.where(directed, aa, one).rsqrt() * torch.where(directed, bb, one).rsqrt()
    return torch.where(directed, cosine, torch.zeros_like(cosine))
