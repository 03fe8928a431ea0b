"""Alignment of two layers' outputs: pooling, and a common grid of positions where they are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse.layout import full_precision, name_layout
from stillhouse_features.options import LinkOptions, Pool

__all__ = ["align", "make_reader", "pool", "read_pair", "to_map"]


def make_reader(options: LinkOptions) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """:func:`read_pair` with these ``options``, and a short way for what most links are: two maps in float32, pooled by their mean."""
    read: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = partial(read_pair, options=options)
    prefixes = options.prefix or options.student_prefix or options.teacher_prefix
    channels_last = options.student_channels_last or options.teacher_channels_last
    if prefixes or channels_last or not options.get_pool("student") == options.get_pool("teacher") == "mean":
        return read

    def read_maps(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        if (
            student.ndim == 4 == teacher.ndim
            and student.dtype is torch.float32 is teacher.dtype
            and student.shape[0] == teacher.shape[0]
        ):
            return student.mean((2, 3)), teacher.mean((2, 3))
        return read(student, teacher)

    return read_maps


def read_pair(student: Tensor, teacher: Tensor, options: LinkOptions) -> tuple[Tensor, Tensor]:
    """Pool both sides as ``options`` say and bring what stays dense to the student's grid.

    Half-precision features become float32. The channel counts may differ: a projector is there for that.

    Args:
        student: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W), with gradient.
        teacher: likewise, of the same B.
        options: the link's.

    Returns:
        Both as vectors (B, C) when pooled; else both as tokens or both as maps of the student's positions.

    Raises:
        StillhouseError: a shape that the options do not fit.
    """
    with full_precision(student):
        student = _move_channels_first(student, options.student_channels_last, "student_channels_last")
        teacher = _move_channels_first(teacher, options.teacher_channels_last, "teacher_channels_last")
        for key, given, sides in (
            ("student_prefix", options.student_prefix, (student,)),
            ("teacher_prefix", options.teacher_prefix, (teacher,)),
            ("prefix", options.prefix, (student, teacher)),
        ):
            if given and all(x.ndim != 3 for x in sides):
                raise StillhouseError(
                    f"{key} = {given} needs tokens (B, N, C), and no side has them", hint=f"remove {key}"
                )
        try:
            s = pool(student, options.get_pool("student"), prefix=options.get_prefix("student"))
        except StillhouseError as error:
            raise error.within("student") from None
        try:
            t = pool(teacher, options.get_pool("teacher"), prefix=options.get_prefix("teacher"))
        except StillhouseError as error:
            raise error.within("teacher") from None
        return align(s, t)


def pool(x: Tensor, how: Pool, *, prefix: int = 0) -> Tensor:
    """Pool the positions of ``x``, in float32 at least.

    Args:
        x: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W).
        how: ``mean`` over the positions -> (B, C); ``cls``, the first token -> (B, C); ``none`` keeps the layout.
            Vectors pass ``mean`` and ``none`` as they are.
        prefix: how many first tokens ``mean`` and ``none`` leave out; of no meaning for maps and vectors.

    Raises:
        StillhouseError: ``x`` is no floating-point layout, has no class token, or no token past the prefix.
    """
    layout = name_layout(x)
    if not x.is_floating_point():
        raise StillhouseError(f"features must be floating-point, got {x.dtype}", hint="read another layer")
    dtype = torch.promote_types(x.dtype, torch.float32)
    if how == "cls":
        if x.ndim != 3:
            raise StillhouseError(
                f"pool = 'cls' needs tokens (B, N, C), got {layout}",
                hint="pool = 'mean' takes the mean over the positions",
            )
        return x[:, 0].to(dtype)
    if x.ndim == 3:
        if prefix >= x.shape[1]:
            raise StillhouseError(f"prefix must be less than the number of tokens, {x.shape[1]}, got {prefix}")
        x = x[:, prefix:]
    if how == "mean" and x.ndim > 2:
        return x.mean(dim=1 if x.ndim == 3 else (2, 3), dtype=dtype)
    return x.to(dtype)


def align(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two pooled sides to the same positions: the teacher's map is interpolated to the student's grid.

    Bilinear, with ``align_corners=False`` and without anti-aliasing. Tokens stay tokens where both sides have as many;
    else they become maps. Source: 2403.14494 leaves maps of different size open; the student's grid is our reading.

    Args:
        student: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W).
        teacher: likewise.

    Raises:
        StillhouseError: different batch sizes, a vector against a dense layout, or tokens that are no square grid.
    """
    if student.shape[0] != teacher.shape[0]:
        raise StillhouseError(
            f"both sides must have one batch as first dimension, got {student.shape[0]} and {teacher.shape[0]}",
            hint="read layers that keep the batch first and whole",
        )
    if student.ndim == 2 and teacher.ndim == 2:
        return student, teacher
    if student.ndim == 2 or teacher.ndim == 2:
        dense = "teacher" if student.ndim == 2 else "student"
        raise StillhouseError(
            f"one side is {name_layout(student if student.ndim == 2 else teacher)} and the {dense}'s positions are kept",
            hint=f"set {dense}_pool = 'mean'",
        )
    if student.ndim == teacher.ndim == 3 and student.shape[1] == teacher.shape[1]:
        return student, teacher
    student, teacher = to_map(student, "student"), to_map(teacher, "teacher")
    if student.shape[2:] != teacher.shape[2:]:
        teacher = F.interpolate(teacher, size=student.shape[2:], mode="bilinear", align_corners=False)
    return student, teacher


def to_map(x: Tensor, side: str) -> Tensor:
    """Tokens (B, N, C), N a square, as maps (B, C, sqrt N, sqrt N) in row-major order; maps as they are.

    Raises:
        StillhouseError: N is not a square number; ``side`` (``student`` or ``teacher``) is what the message names.
    """
    if x.ndim == 4:
        return x
    tokens = x.shape[1]
    size = math.isqrt(tokens)
    if size * size != tokens:
        extra = tokens - size * size
        hint = "set pool = 'mean'"
        if extra <= 8:
            hint += f", or {side}_prefix = {extra} if {extra} of them come before a grid of {size} x {size}"
        raise StillhouseError(f"the {side}'s tokens must form a square grid, got {tokens}", hint=hint)
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], size, size)


def _move_channels_first(x: Tensor, channels_last: bool, option: str) -> Tensor:
    if not channels_last:
        return x
    if x.ndim != 4:
        raise StillhouseError(f"{option} = true needs maps, got {name_layout(x)}", hint=f"remove {option}")
    return x.movedim(-1, 1)
