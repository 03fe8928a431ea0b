"""The picture of an ablation: validation curves of the whole list and of none, and each arm's gain with its interval."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillhouse.errors import StillhouseError
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.plan import Plan
from stillhouse.files import replacing, write_text
from stillhouse.terminal import plain

__all__ = [
    "Curve",
    "draw_ablation",
    "draw_curve",
    "draw_differences",
    "limit_to_settled",
    "read_curve",
    "save_figure",
    "to_svg",
    "wrap_name",
    "write_picture",
]

_CURVES = {"none": ("alone", "#78909c"), "full": ("distilled", "#00897b")}
"""Label and colour of the arms that have a curve, by kind."""
_DPI = 150
"""Of the PNG."""

Curve = dict[int, list[float]]
"""A metric's values over the seeds, by epoch from 1."""


def write_picture(path: Path, comparison: Comparison, plan: Plan) -> None:
    """Draw the finished runs of ``plan`` into an SVG file and a PNG beside it; the same runs give the same files."""
    labels = {arm.name: fill(" + ".join(arm.plugins), 26) for arm in plan.arms if arm.plugins and not arm.settings}
    figure = draw_ablation(comparison, _read_curves(plan, comparison.metric.partition("/")[2]), labels)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Save a figure as the SVG file ``path`` and as a PNG beside it.

    Raises:
        StillhouseError: one of them cannot be written.
    """
    write_text(path, to_svg(figure))
    picture = path.with_suffix(".png")
    try:
        with replacing(picture) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI)
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(picture)) from error


def wrap_name(name: str, width: int) -> str:
    """Break a name into lines behind its commas, slashes and spaces, within a part only where that alone is too long."""
    lines = [""]
    for part in re.findall(r"[^,/ ]*[,/ ]|[^,/ ]+", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(fill(line, width) for line in lines)


def to_svg(figure: Figure) -> str:
    """A figure as SVG, the same text whenever it is drawn."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "stillhouse", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def draw_ablation(comparison: Comparison, curves: Mapping[str, Curve], labels: Mapping[str, str]) -> Figure:
    """Draw an ablation.

    Args:
        comparison: the table; its first reference is what gains are measured from.
        curves: the validation metric of the arms ``none`` and ``full``; one without values is left out.
        labels: what arms are called in the picture, where it is not their name.

    Returns:
        A figure of two panels. Left: each curve's mean over the seeds, and the range of the seeds as a band. Right: each
        arm's mean difference from the reference with its 95% interval, the greatest on top.
    """
    figure = Figure((8.4, max(3.0, 1.0 + 0.45 * len(comparison.rows))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, curve in curves.items():
        name, colour = _CURVES[kind]
        last = list(curve.values())[-1]
        draw_curve(left, curve, colour, f"{name}, mean of {max(map(len, curve.values()))}: {statistics.mean(last):.3g}")
    limit_to_settled(left, curves)
    left.set(xlabel="epoch", ylabel=f"validation {comparison.metric.partition('/')[2]}")
    if curves:
        left.legend(loc="best", frameon=False)
    draw_differences(right, comparison, comparison.references[0] if comparison.references else "", labels)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _read_curves(plan: Plan, metric: str) -> dict[str, Curve]:
    """The curves of the first arm of each kind that has one."""
    arms: dict[str, str] = {arm.kind: arm.name for arm in reversed(plan.arms) if arm.kind in _CURVES}
    found: dict[str, Curve] = {}
    for kind in _CURVES:
        summaries = [run.summary() for run in plan.runs() if run.arm == arms.get(kind)]
        if curve := read_curve([summary for summary in summaries if summary is not None], metric):
            found[kind] = curve
    return found


def read_curve(summaries: Sequence[Mapping[str, Any]], metric: str) -> Curve:
    """The validation curve of runs that differ by the seed alone; empty where none has measured ``metric``."""
    histories: list[Sequence[Mapping[str, float]]] = [summary["history"] for summary in summaries]
    # Epochs that run.validate_every leaves out are empty, and early stopping makes histories of several lengths.
    epochs = enumerate(zip_longest(*histories, fillvalue={}), 1)
    curve = {n: [e[metric] for e in entries if e.get(metric) is not None] for n, entries in epochs}
    return {n: values for n, values in curve.items() if values}


def draw_curve(axes: Axes, curve: Curve, colour: str, label: str) -> None:
    """Draw a curve's mean over the seeds, and the range of the seeds as a band."""
    epochs, values = list(curve), list(curve.values())
    means = list(map(statistics.mean, values))
    axes.fill_between(epochs, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, means, color=colour, linewidth=2, label=label)


def limit_to_settled(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Limit the height to where curves have settled: the way up from chance would hide what is compared."""
    settled = [v for curve in curves.values() for n, values in curve.items() if n > max(curve) / 5 for v in values]
    if settled and max(settled) > min(settled):
        margin = 0.1 * (max(settled) - min(settled))
        axes.set_ylim(min(settled) - margin, max(settled) + margin)


def draw_differences(axes: Axes, comparison: Comparison, reference: str, labels: Mapping[str, str]) -> None:
    """Draw each group's mean difference from ``reference``, a title, with its 95% interval, the greatest on top."""
    found = [(d.mean, row.group.name, d) for row in comparison.rows if (d := row.differences.get(reference))]
    found.sort(key=lambda entry: entry[0])
    axes.axvline(0, color="#b0bec5", linewidth=1)
    for place, (mean, name, difference) in enumerate(found):
        colour = _CURVES["full"][1] if name == "full" else "#455a64"
        if difference.low is not None and difference.high is not None:
            axes.plot((difference.low, difference.high), (place, place), color=colour, linewidth=1.6)
        axes.plot(mean, place, "o", color=colour, markersize=6)
        axes.annotate(f"{mean:+.2g}", (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(found)), [plain(labels.get(name, name)) for _, name, _ in found], fontsize=8)
    told = [wrap_name(f"{comparison.metric} less {reference},", 36), "95% interval"]
    axes.set(ylim=(-0.5, len(found)), xlabel=plain((" " if len(told[0]) < 36 else "\n").join(told)))
    axes.margins(x=0.12)  # a number above an outermost dot is as wide as that
    axes.locator_params(axis="x", nbins=5)
