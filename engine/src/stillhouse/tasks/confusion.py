"""Which class is taken for which, as a picture: a matrix of shares, or where there are many classes the pairs most often mixed up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.tasks.pictures import make_palette
from stillhouse.terminal import plain

__all__ = ["draw_confusion"]

_MOST = 20
"""Classes of a matrix whose names can still be read."""
_PAIRS = 12
_LONGEST = 18


def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """A figure of ``counts`` (C, C), true classes by row and found ones by column, with the classes' names."""
    figure = Figure(figsize=(5.0, 4.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    place = figure.subplots()
    short = [plain(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…") for name in names]
    if len(names) <= _MOST:
        _fill_matrix(place, counts.numpy(), short)
    else:
        _fill_pairs(place, counts.numpy(), short)
    return figure


def _fill_matrix(place: Axes, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Percent of each true class; the diagonal is what is right."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    place.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = 11 if len(names) <= 10 else 8
    for i, j in zip(*np.nonzero(counts), strict=True):
        text, colour = f"{shares[i, j]:.0f}", "white" if shares[i, j] > 60 else "black"
        place.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    ticks = np.arange(len(names))
    place.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
    place.set_yticks(ticks, names, fontsize=size)
    place.set_xlabel("found, % of the true class", fontsize=12)
    place.set_ylabel("true", fontsize=12)


def _fill_pairs(place: Axes, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """The pairs of classes that are most often mixed up, as bars."""
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    bars = place.barh(np.arange(len(pairs)), [off[i, j] for i, j in pairs], color=make_palette(1)[0])
    place.bar_label(bars, padding=3, fontsize=10)
    place.set_yticks(np.arange(len(pairs)), [f"{names[i]} as {names[j]}" for i, j in pairs], fontsize=10)
    place.invert_yaxis()
    place.set_xlabel("samples", fontsize=12)
