"""The divergence of two models' softened class probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse.layout import channels, format_shape, name_layout, to_rows

__all__ = ["soft_target_divergence"]


def soft_target_divergence(student: Tensor, teacher: Tensor, temperature: float | Tensor = 4.0) -> Tensor:
    """T^2 KL(softmax(t/T) || softmax(s/T)), mean over samples and positions: a scalar in nats, in float32 at least.

    The gradient with respect to one row of the student's logits is T (softmax(s/T) - softmax(t/T)) / R for R rows, so
    that it keeps its size as T grows, and tends to (s - t) / (C R) for centred logits. Source: Hinton, Vinyals and Dean
    2015 (1503.02531), section 2 and its equations 2 to 4; the T^2 is the end of that section's first part. Their
    cross-entropy with soft targets differs from this by the teacher's entropy, which has no gradient for the student.
    A class whose logit is minus infinity for the teacher has probability 0, and adds nothing.

    Args:
        student: logits (B, C); or dense ones, tokens (B, N, C) or maps (B, C, H, W).
        teacher: logits of the same shape.
        temperature: T > 0; 1 compares the probabilities as they are, a large T the logits themselves. A scalar tensor gets a
            gradient, where it is learned.

    Raises:
        StillhouseError: the shapes differ or are no logits; ``temperature`` is not a positive number.
    """
    short = student.ndim == 2 and student.shape == teacher.shape and student.dtype is torch.float32 is teacher.dtype
    if not short or not 0.0 < temperature < math.inf:
        student, teacher = _bring_to_rows(student, teacher, temperature)
    plain = teacher.requires_grad or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if not plain and not isinstance(temperature, Tensor):  # which may be learned
        found: Tensor = _Divergence.apply(student, teacher, temperature)
        return found
    # All of these stay in float32 or wider whatever autocast says.
    s = F.log_softmax(student / temperature, dim=1)
    t = F.log_softmax(teacher / temperature, dim=1)
    # A class that the teacher rules out, with a logit of minus infinity, adds p log p = 0 and not 0 times infinity.
    out = t == -math.inf
    if t.requires_grad:  # its own gradient would be that product as well
        s, t = s.masked_fill(out, 0.0), t.masked_fill(out, 0.0)
    each = F.kl_div(s, t, log_target=True, reduction="none").masked_fill(out, 0.0)
    # One product for T^2 and the mean over rows is a kernel less, forward and backward.
    return each.sum() * (temperature**2 / s.shape[0])


class _Divergence(torch.autograd.Function):
    """The same of rows with the gradient in its closed form: one pass on the way back, and one tensor kept for it.

    For a compiler and torch.func there is the formula itself: the one makes as much of it, the others ask for a slower form of this.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The divergence; see :func:`soft_target_divergence`."""
        s = torch.log_softmax(student / temperature, 1)
        t = torch.log_softmax(teacher / temperature, 1)
        p = t.exp()
        each = t.sub_(s).mul_(p).masked_fill_(p == 0.0, 0.0)  # p log p is 0 there, and not 0 times infinity
        rows = len(s)
        ctx.save_for_backward(student, p, s.exp_().sub_(p).mul_(temperature / rows))
        ctx.temperature = temperature
        return each.sum().mul_(temperature**2 / rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """T (softmax(s/T) - softmax(t/T)) / R, times what comes from above."""
        student, p, own = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody asks for a gradient of the gradient
            temperature = ctx.temperature
            own = (torch.softmax(student / temperature, 1) - p) * (temperature / len(student))
        return own * gradient, None, None


def _bring_to_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Both as rows (R, C) in float32 or wider, where they can be compared."""
    if not 0.0 < temperature < math.inf:
        raise StillhouseError(
            f"must be finite and > 0, got {temperature}",
            where="temperature",
            hint="1 to 10 as a rule",
        )
    name_layout(student)
    if student.shape != teacher.shape:
        hint = "both models must give logits of one shape"
        if student.ndim == teacher.ndim and channels(student) != channels(teacher):
            hint = (
                f"{channels(student)} and {channels(teacher)} classes cannot be compared: take a teacher of the same "
                "classes, or match features instead"
            )
        raise StillhouseError(
            f"the student's output must have the teacher's shape {format_shape(teacher)}, got {format_shape(student)}",
            hint=hint,
        )
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise StillhouseError(
            f"outputs must be floating-point logits, got {student.dtype} and {teacher.dtype}",
            hint="scores before softmax",
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return to_rows(student).to(dtype), to_rows(teacher).to(dtype)
