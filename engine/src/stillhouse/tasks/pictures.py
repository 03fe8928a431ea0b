"""Pictures of samples: rows of panels, with colours of classes and bars of values, by matplotlib without its windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.terminal import plain

__all__ = ["Panel", "draw", "draw_bars", "is_picture", "make_palette", "plain", "to_picture", "unnormalise"]

_MOST_IN_LEGEND = 24
_PANEL_WIDTH = 3.2  # inches
_DPI = 100
_MAP = colormaps["viridis"].with_extremes(bad="0.85")


@attrs.frozen(eq=False)
class Panel:
    """One picture in a row.

    Attributes:
        title: above it; all of a figure have as many lines.
        values: an image (3, H, W) or (1, H, W), 0 to 1; with ``classes`` indices (H, W), negative where there is none;
            with ``unit`` numbers (H, W), NaN where there is none.
        classes: names of classes, by index.
        unit: the numbers' unit, such as ``m``.
    """

    title: str
    values: Tensor
    classes: Sequence[str] = ()
    unit: str = ""


def is_picture(inputs: Any) -> bool:
    """Whether ``inputs`` (B, C, H, W) can be shown: of one or three channels."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def unnormalise(image: Tensor, data: DataInfo) -> Tensor:
    """Undo the normalisation of an input (C, H, W); values are 0 to 1."""
    image = image.float()
    if data.mean and len(data.mean) == image.shape[0]:
        image = image * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    return image.clamp(0, 1)


def make_palette(n: int) -> NDArray[np.float64]:
    """Make ``n`` colours (n, 3), 0 to 1: ten distinct ones, then hues a golden section apart."""
    plain = np.array(colormaps["tab10"].colors)  # type: ignore[attr-defined]  # a listed map has them
    more = np.arange(max(0, n - len(plain)))
    hues = (0.11 + more * 0.618034) % 1
    values = np.where(more % 2 == 0, 0.95, 0.6)
    return np.concatenate([plain, hsv_to_rgb(np.stack([hues, np.full(len(more), 0.6), values], 1))])[:n]


def draw(rows: Sequence[Sequence[Panel]]) -> Figure:
    """A figure of ``rows`` of panels.

    The classes that occur are listed below; numbers of one row share one scale, from the last panel that has them.
    """
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].values.shape[-2:]
    # A single sample is shown pixel by pixel, up to a size.
    panel_width = _PANEL_WIDTH if len(rows) > 1 else max(_PANEL_WIDTH, min(8.0, width / _DPI))
    panel_height = max(1.2, min(1.4 * panel_width, panel_width * height / width)) + 0.2 * (
        1 + rows[0][0].title.count("\n")
    )
    names, used = _find_classes(rows)
    scales = [_scale(row) for row in rows]
    widths = [1.0] * columns + ([0.04] if any(scales) else [])
    legend_height = 0.1 + 0.2 * -(-len(used) // (2 * columns)) if used else 0.0
    figure = Figure(
        figsize=(panel_width * columns + 0.2 + 0.6 * any(scales), panel_height * len(rows) + legend_height + 0.1),
        dpi=_DPI,
        layout="constrained",
    )
    FigureCanvasAgg(figure)  # otherwise a figure made without pyplot has no canvas to be drawn on
    axes = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for row, places, scale in zip(rows, axes, scales, strict=True):
        for place in places[:columns]:
            place.axis("off")
        for panel, place in zip(row, places, strict=False):
            _show(place, panel, names, scale)
        if scale is not None:
            unit = next(p.unit for p in row if p.unit)
            figure.colorbar(ScalarMappable(scale, _MAP), cax=places[-1], label=unit)
        else:
            places[-1].axis("off")
    if used:
        colours = make_palette(len(names))
        patches = [Patch(facecolor=colours[i], edgecolor="0.3", linewidth=0.5, label=plain(names[i])) for i in used]
        figure.legend(handles=patches, loc="outside lower center", ncols=2 * columns, fontsize=8, frameon=False)
    return figure


def draw_bars(image: Tensor, values: Sequence[tuple[str, float]], label: str, greatest: float | None = None) -> Figure:
    """An image (C, H, W) beside bars of named numbers, from above in the order given; ``greatest`` ends the scale."""
    figure = Figure(figsize=(7.0, max(2.6, 0.5 + 0.3 * len(values))), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.axis("off")
    _show(left, Panel("input", image), (), None)
    places = np.arange(len(values))
    bars = right.barh(places, [value for _, value in values], color=make_palette(1)[0])
    right.bar_label(bars, [f"{value:.3g}" for _, value in values], padding=3, fontsize=8)
    right.set_yticks(places, [plain(name) for name, _ in values], fontsize=8)
    right.set_ylim(max(len(values), 4) - 0.5, -0.5)  # few bars do not become thick
    right.margins(x=0.15)
    if greatest is not None:
        right.set_xlim(0, greatest * 1.15)
    right.set_xlabel(plain(label), fontsize=8)
    right.tick_params(axis="x", labelsize=8)
    return figure


def to_picture(figure: Figure) -> Image.Image:
    """The figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib gives these no types
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")


def _find_classes(rows: Sequence[Sequence[Panel]]) -> tuple[Sequence[str], list[int]]:
    panels = [panel for row in rows for panel in row if panel.classes]
    if not panels:
        return (), []
    found, counts = np.unique(torch.cat([p.values.flatten() for p in panels]).numpy(), return_counts=True)
    names = panels[0].classes
    often = sorted(zip(counts.tolist(), found.tolist(), strict=True), reverse=True)
    return names, sorted([int(i) for _, i in often if 0 <= i < len(names)][:_MOST_IN_LEGEND])


def _scale(row: Sequence[Panel]) -> Normalize | None:
    for panel in reversed(row):
        if panel.unit:
            values = panel.values[panel.values.isfinite()]
            if values.numel():
                # Outliers would leave one colour to all the rest.
                low, high = np.quantile(values.numpy(), [0.01, 0.99])
                return Normalize(float(low), float(high) if high > low else float(low) + 1e-6)
    return None


def _show(place: Any, panel: Panel, names: Sequence[str], scale: Normalize | None) -> None:
    place.set_title("\n".join(map(plain, panel.title.split("\n"))), fontsize=9)
    values = panel.values
    # Blocks stay blocks where pixels are drawn larger; where they are drawn smaller they are averaged.
    style = {"interpolation": "nearest" if panel.classes else "auto"}
    if panel.classes:
        colours = np.concatenate([make_palette(len(names)), np.zeros((1, 3))])  # the last one, black, is index -1
        place.imshow(colours[np.clip(values.numpy(), -1, len(names) - 1)], **style)
    elif panel.unit:
        place.imshow(np.ma.masked_invalid(values.numpy()), cmap=_MAP, norm=scale, **style)
    elif values.shape[0] == 3:
        place.imshow(values.clamp(0, 1).permute(1, 2, 0).numpy(), **style)
    else:
        place.imshow(values[0].clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, **style)
