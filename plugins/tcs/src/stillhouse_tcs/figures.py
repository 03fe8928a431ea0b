"""Figures of the coordinate system for TensorBoard."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from stillhouse_tcs.head import CoordinateHead

__all__ = ["draw_mask", "draw_rounds", "draw_spectrum"]


def draw_spectrum(head: CoordinateHead) -> Figure:
    """Draw the variances of the features' principal axes and the cumulated share of the first ones."""
    spectrum = head.spectrum.cpu().double().numpy()
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    left = figure.add_subplot()
    numbers = np.arange(1, len(spectrum) + 1)
    floor = spectrum[0] * 1e-9
    left.plot(numbers, np.maximum(spectrum, floor), color="tab:blue")
    left.set(yscale="log", xlabel="principal axis", title="Spectrum of the teacher's features")
    k = len(head.readout.live)
    share = 100 * float(head.explained)
    left.axvline(k, color="grey", linestyle="--", label=f"k = {k}: {share:.1f}% of the variance")
    right = left.twinx()
    right.plot(numbers, 100 * spectrum.cumsum() / spectrum.sum(), color="tab:orange")
    right.set(ylim=(0, 102))
    left.set_ylabel("variance", color="tab:blue")
    right.set_ylabel("held by the first ones, %", color="tab:orange")
    left.legend(loc="lower left")
    return figure


def draw_mask(head: CoordinateHead) -> Figure:
    """Draw the mask's value of each live dimension; dropped ones are marked."""
    mask, live = head.readout.mask.detach().cpu().numpy(), head.readout.live.cpu().numpy() > 0
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    numbers = np.arange(1, len(mask) + 1)
    axes.plot(numbers[live], mask[live], ".", color="tab:blue", label=f"{int(live.sum())} live")
    axes.plot(numbers[~live], np.zeros(int((~live).sum())), "x", color="tab:red", label=f"{int((~live).sum())} dropped")
    axes.set(xlabel="dimension, by variance", ylabel="m", title="Mask")
    axes.legend(loc="best")
    return figure


def draw_rounds(head: CoordinateHead) -> Figure:
    """Draw the number of live dimensions at first and after each round so far."""
    history = head.readout.history.cpu().numpy()
    history = history[history > 0]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.margins(y=0.12)
    axes.bar(np.arange(len(history)), history, color="tab:blue")
    axes.set(xlabel="rounds done", ylabel="live dimensions", title="Selection", xticks=np.arange(len(history)))
    for x, y in enumerate(history):
        axes.annotate(f"{int(y)}", (x, y), ha="center", va="bottom")
    return figure
