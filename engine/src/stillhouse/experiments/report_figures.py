"""The figures of a report: differences from each reference with their intervals, and a small picture of curves for each group."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from matplotlib.figure import Figure

from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.effects import Effect
from stillhouse.experiments.picture import Curve, draw_curve, draw_differences, limit_to_settled, wrap_name
from stillhouse.terminal import plain

__all__ = ["MOST_CURVES", "draw_curves", "draw_effects", "draw_forest"]

MOST_CURVES = 24
"""Groups whose curves are drawn: more are no help to the eye."""
_COLUMNS = 4
_WIDTH = 30
"""Characters of a name in a line."""
_GREY, _OWN = "#90a4ae", "#00897b"


def draw_forest(comparison: Comparison) -> Figure:
    """Draw each group's mean difference from each reference with its 95% interval: one panel a reference.

    References of which there is no difference have no panel.
    """
    titles = [
        title for title in comparison.references if any(row.differences[title] is not None for row in comparison.rows)
    ]
    labels = {row.group.name: wrap_name(row.group.name, _WIDTH) for row in comparison.rows}
    figure = Figure((4.6 * max(1, len(titles)), 1.2 + 0.42 * len(comparison.rows)), layout="constrained")
    for place, title in enumerate(titles):
        axes = figure.add_subplot(1, len(titles), place + 1)
        draw_differences(axes, comparison, title, labels)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_effects(effects: list[Effect], metric: str) -> Figure:
    """Draw main effects and interactions with their 95% intervals, in the order given from above."""
    figure = Figure((7.5, 1.0 + 0.38 * len(effects)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=_GREY, linewidth=1)
    for place, effect in enumerate(effects):
        found = effect.difference
        if found.low is not None and found.high is not None:
            axes.plot((found.low, found.high), (place, place), color="#455a64", linewidth=1.6)
        axes.plot(found.mean, place, "o", color="#455a64", markersize=6)
    axes.set_yticks(range(len(effects)), [plain(wrap_name(effect.name, 50)) for effect in effects], fontsize=8)
    axes.set(ylim=(len(effects) - 0.5, -0.5), xlabel=plain(f"effect on {metric}, 95% interval"))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_curves(curves: Mapping[str, Curve], metric: str, behind: str) -> Figure:
    """Draw the validation curve of each group, in pictures of one scale.

    Args:
        curves: by the group's name, one at least.
        metric: what they show.
        behind: the group whose mean stands in grey behind the others; none where it has no curve.
    """
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure((2.6 * columns + 0.4, 2.0 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, curve) in zip(places, curves.items(), strict=False):
        if behind in curves and name != behind:
            grey = curves[behind]
            axes.plot(list(grey), [mean(values) for values in grey.values()], color=_GREY, linewidth=1.2)
        draw_curve(axes, curve, _OWN, name)
        last = mean(curve[max(curve)])
        axes.set_title(f"{plain(wrap_name(name, _WIDTH))}\n{last:.3g}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in places[len(curves) :]:
        axes.axis("off")
    for axes in places[max(0, len(curves) - columns) : len(curves)]:
        axes.tick_params(labelbottom=True)  # of those that are the lowest of their column, though not in the last row
    limit_to_settled(places[0], curves)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(plain(f"validation {metric}"), fontsize=9)
    return figure
