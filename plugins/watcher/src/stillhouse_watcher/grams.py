"""Gram matrices of both sides of links, side by side: which samples each side takes to be alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from stillhouse.tasks.pictures import plain

__all__ = ["draw_grams"]

_SIDE = 2.2
"""Inches of a matrix."""


def draw_grams(sides: Mapping[str, tuple[Tensor, Tensor]], order: str) -> Figure:
    """A row for each link: cosines of the student's rows (B, C), of the teacher's (B, D), and their difference.

    Args:
        sides: by the link's name.
        order: what the samples' order is, for the first matrix.
    """
    figure = Figure(figsize=(3 * _SIDE + 0.9, _SIDE * len(sides) + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sides), 3, squeeze=False)
    for places, (link, pair) in zip(axes, sides.items(), strict=True):
        student, teacher = (F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).mT for rows in pair)
        for place, gram in zip(places, (student, teacher, student - teacher), strict=True):
            drawn = place.imshow(gram.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
            place.set_xticks([])
            place.set_yticks([])
        places[0].set_ylabel(plain(link), fontsize=11)
    for place, title in zip(axes[0], ("student", "teacher", "difference"), strict=True):
        place.set_title(title, fontsize=13)
    axes[-1][0].set_xlabel(order, fontsize=11)
    figure.colorbar(drawn, ax=axes, label="cosine", shrink=0.8)
    return figure
