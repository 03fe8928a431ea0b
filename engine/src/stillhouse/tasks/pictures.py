"""Pictures of samples: rows of panels, with colours of classes and bars of values, by matplotlib without its windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

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

__all__ = [
    "Panel",
    "draw",
    "draw_bars",
    "draw_samples",
    "is_picture",
    "make_error",
    "make_palette",
    "plain",
    "to_picture",
    "unnormalise",
]

_MOST_IN_LEGEND = 24
_ALONE, _IN_ROWS = 3.2, 1.6
"""Inches that a panel is wide, of a single row and of several: these are looked at as thumbnails, where text must be large."""
_DPI = 100
_MAP = colormaps["viridis"].with_extremes(bad="0.85")
_ERRORS = colormaps["RdBu_r"].with_extremes(bad="0.85")


@attrs.frozen(eq=False)
class Panel:
    """One picture in a row.

    Attributes:
        title: above it; all of a figure have as many lines. One that a whole column has stands above its first alone.
        values: an image (3, H, W) or (1, H, W), 0 to 1; with ``classes`` indices (H, W), negative where there is none;
            with ``unit`` or ``limit`` numbers (H, W), NaN where there is none.
        classes: names of classes, by index.
        unit: the numbers' unit, such as ``m``; they share the scale of the row.
        limit: the numbers are errors, on a scale of their own from -limit, blue, to limit, red; 0: they are none.
    """

    title: str
    values: Tensor
    classes: Sequence[str] = ()
    unit: str = ""
    limit: float = 0.0


def is_picture(inputs: Any) -> bool:
    """Whether ``inputs`` (B, C, H, W) can be shown: of one or three channels."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def are_boxes(teacher: Any) -> TypeGuard[list[dict[str, Tensor]]]:
    """Whether a teacher's output can be shown as a detector's: boxes with scores for each sample."""
    return isinstance(teacher, list) and all(isinstance(boxes, dict) and "scores" in boxes for boxes in teacher)


def unnormalise(image: Tensor, data: DataInfo) -> Tensor:
    """Undo the normalisation of an input (C, H, W); values are 0 to 1."""
    image = image.float()
    if data.mean and len(data.mean) == image.shape[0]:
        image = image * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    return image.clamp(0, 1)


def make_error(values: Tensor, unit: str = "") -> Panel:
    """A panel of errors (H, W), NaN where there is none; its title says how large they are where the scale ends."""
    sizes = values[values.isfinite()].abs()
    limit = (
        max(float(np.quantile(sizes.numpy(), 0.99)), 1e-6) if sizes.numel() else 1.0
    )  # of outliers the scale is no measure
    sign = "" if bool((values[values.isfinite()] >= 0).all()) else "±"
    return Panel(f"error {sign}{limit:.2g} {unit}".rstrip(), values, limit=limit)


def make_palette(n: int) -> NDArray[np.float64]:
    """Make ``n`` colours (n, 3), 0 to 1: ten distinct ones, then hues a golden section apart."""
    plain = np.array(colormaps["tab10"].colors)  # type: ignore[attr-defined]  # a listed map has them
    more = np.arange(max(0, n - len(plain)))
    hues = (0.11 + more * 0.618034) % 1
    values = np.where(more % 2 == 0, 0.95, 0.6)
    return np.concatenate([plain, hsv_to_rgb(np.stack([hues, np.full(len(more), 0.6), values], 1))])[:n]


def draw(rows: Sequence[Sequence[Panel]]) -> Figure:
    """A figure of ``rows`` of panels.

    The classes that occur are listed below; numbers of one row share one scale, from the first panel that has them.
    """
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].values.shape[-2:]
    # A single sample is shown pixel by pixel, up to a size.
    if len(rows) > 1:
        longest = max(len(line) for row in rows for panel in row for line in panel.title.split("\n"))
        panel_width = max(_IN_ROWS, min(0.11 * longest, _ALONE))
    else:
        panel_width = max(_ALONE, min(8.0, width / _DPI))
    panel_height = max(0.6 * panel_width, min(1.4 * panel_width, panel_width * height / width))
    panel_height += 0.2 * (1 + rows[0][0].title.count("\n"))
    size = 12 if len(rows) > 1 else 9
    names, used = _find_classes(rows)
    scales = [_scale(row) for row in rows]
    widths = [1.0] * columns + ([0.04] if any(scales) else [])
    legend_height = 0.1 + 0.2 * -(-len(used) // columns) if used else 0.0
    figure = Figure(
        figsize=(panel_width * columns + 0.2 + 0.6 * any(scales), panel_height * len(rows) + legend_height + 0.1),
        dpi=_DPI,
        layout="constrained",
    )
    FigureCanvasAgg(figure)  # otherwise a figure made without pyplot has no canvas to be drawn on
    axes = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    columns_titles = [{row[i].title for row in rows if i < len(row)} for i in range(columns)]
    shared = [len(titles) == 1 and "\n" not in min(titles) for titles in columns_titles]
    for number, (row, places, scale) in enumerate(zip(rows, axes, scales, strict=True)):
        for place in places[:columns]:
            place.axis("off")
        for panel, place, once in zip(row, places, shared, strict=False):
            _show(place, panel, names, scale)
            if number == 0 or not once:
                place.set_title("\n".join(map(plain, panel.title.split("\n"))), fontsize=size)
        if scale is not None:
            unit = next(p.unit for p in row if p.unit)
            figure.colorbar(ScalarMappable(scale, _MAP), cax=places[-1], label=unit)
        else:
            places[-1].axis("off")
    if used:
        colours = make_palette(len(names))
        patches = [Patch(facecolor=colours[i], edgecolor="0.3", linewidth=0.5, label=plain(names[i])) for i in used]
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=size - 1, frameon=False)
    return figure


def draw_samples(inputs: Tensor, titles: Sequence[str], data: DataInfo) -> Figure:
    """Inputs (B, C, H, W) with their titles, two in a row."""
    panels = [Panel(title, unnormalise(x, data)) for x, title in zip(inputs, titles, strict=True)]
    return draw([panels[i : i + 2] for i in range(0, len(panels), 2)])


def draw_bars(image: Tensor, values: Sequence[tuple[str, float]], label: str, greatest: float | None = None) -> Figure:
    """An image (C, H, W) beside bars of named numbers, from above in the order given; ``greatest`` ends the scale."""
    figure = Figure(figsize=(7.0, max(2.6, 0.5 + 0.3 * len(values))), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.axis("off")
    left.set_title("input", fontsize=9)
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
    for panel in row:
        if panel.unit:
            values = panel.values[panel.values.isfinite()]
            if values.numel():
                # Outliers would leave one colour to all the rest.
                low, high = np.quantile(values.numpy(), [0.01, 0.99])
                return Normalize(float(low), float(high) if high > low else float(low) + 1e-6)
    return None


def _show(place: Any, panel: Panel, names: Sequence[str], scale: Normalize | None) -> None:
    values = panel.values
    # Blocks stay blocks where pixels are drawn larger; where they are drawn smaller they are averaged.
    style = {"interpolation": "nearest" if panel.classes else "auto"}
    if panel.classes:
        colours = np.concatenate([make_palette(len(names)), np.zeros((1, 3))])  # the last one, black, is index -1
        place.imshow(colours[np.clip(values.numpy(), -1, len(names) - 1)], **style)
    elif panel.limit:
        scale = Normalize(-panel.limit, panel.limit)
        place.imshow(np.ma.masked_invalid(values.numpy()), cmap=_ERRORS, norm=scale, **style)
    elif panel.unit:
        place.imshow(np.ma.masked_invalid(values.numpy()), cmap=_MAP, norm=scale, **style)
    elif values.shape[0] == 3:
        place.imshow(values.clamp(0, 1).permute(1, 2, 0).numpy(), **style)
    else:
        place.imshow(values[0].clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, **style)
