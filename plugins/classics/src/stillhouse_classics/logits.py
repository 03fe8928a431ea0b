"""Outputs of classifiers, as the methods compare them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stillhouse import Step, StillhouseError
from stillhouse.layout import format_shape, to_rows
from stillhouse_classics.links import widen

__all__ = ["divergence", "read_logits", "read_output"]


def divergence(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(softmax(t/T) || softmax(s/T)), the mean over rows (R, C): a scalar in nats, without the factor T^2."""
    return F.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean")


def read_output(output: Any, which: str) -> Tensor:
    """A model's logits as rows (R, C) in float32 or wider: of (B, C), (B, N, C) or (B, C, H, W).

    Raises:
        StillhouseError: the output is no tensor of floating-point numbers in one of these layouts.
    """
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        found = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise StillhouseError(
            f"the {which}'s output must be a tensor of logits, got {found}",
            hint="wrap the model so that its forward returns logits, or take a method that reads layers",
        )
    return widen(to_rows(output))


def read_logits(step: Step) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's logits as rows (R, C), in float32 or wider.

    Raises:
        StillhouseError: an output is no tensor of logits, or the two differ in shape.
    """
    student = read_output(step.student.output, "student")
    teacher = read_output(step.teacher.output if step.teacher is not None else None, "teacher")
    if student.shape != teacher.shape:
        raise StillhouseError(
            f"the student's logits must have the teacher's shape {format_shape(teacher)}, got {format_shape(student)}",
            hint="take a teacher of the same classes, or a method that reads layers",
        )
    return student, teacher
