"""Both sides of a link as points for TensorBoard's projector, in files that stay small."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["join_sides", "reduce_width"]

WIDTH = 50
"""Numbers of a point: the projector begins with the main directions anyway."""
_DIGITS = 5


def join_sides(link: str, student: Tensor, teacher: Tensor) -> list[tuple[str, Tensor, list[str]]]:
    """What is shown of a link: tag, points (N, C) and which side each is of.

    Two sides (B, C) of one width are points of one space, where pairs that were matched lie together; else each has its own.
    """
    if student.shape == teacher.shape:
        names = ["student"] * len(student) + ["teacher"] * len(teacher)
        return [(link, torch.cat([student, teacher]), names)]
    sides = {"student": student, "teacher": teacher}
    return [(f"{link}/{side}", rows, [side] * len(rows)) for side, rows in sides.items()]


def reduce_width(rows: Tensor) -> NDArray[np.float64]:
    """Points (N, C) on their ``WIDTH`` main directions at most, as numbers of few digits; their distances stay, up to what is left out."""
    x = rows.double().nan_to_num(0.0, 0.0, 0.0)
    if x.shape[1] > WIDTH:
        x = x - x.mean(0)
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        x = (u * s)[:, :WIDTH]
    size = float(x.abs().max().clamp_min(1e-30))
    return np.round(x.numpy() / size, _DIGITS)
