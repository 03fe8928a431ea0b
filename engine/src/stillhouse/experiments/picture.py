"""The picture of an ablation: validation curves of the whole list and of none, and each arm's gain with its interval."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from textwrap import fill

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.plan import Plan
from stillhouse.files import write_text
from stillhouse.tasks.pictures import plain

__all__ = ["draw_ablation", "write_picture"]

_CURVES = {"none": ("alone", "#78909c"), "full": ("distilled", "#00897b")}
"""Label and colour of the arms that have a curve, by kind."""

Curve = dict[int, list[float]]
"""A metric's values over the seeds, by epoch from 1."""


def write_picture(path: Path, comparison: Comparison, plan: Plan) -> None:
    """Draw the finished runs of ``plan`` into an SVG file; the same runs give the same file."""
    labels = {arm.name: fill(" + ".join(arm.plugins), 26) for arm in plan.arms if arm.plugins and not arm.settings}
    figure = draw_ablation(comparison, _read_curves(plan, comparison.metric.partition("/")[2]), labels)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "stillhouse", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())


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
        _draw_curve(left, kind, curve)
    if settled := [v for curve in curves.values() for n, vs in curve.items() if n > max(curve) / 5 for v in vs]:
        margin = 0.1 * (max(settled) - min(settled))  # the way up from chance would hide what is compared
        left.set_ylim(min(settled) - margin, max(settled) + margin)
    left.set(xlabel="epoch", ylabel=f"validation {comparison.metric.partition('/')[2]}")
    if curves:
        left.legend(loc="best", frameon=False)
    _draw_differences(right, comparison, labels)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _read_curves(plan: Plan, metric: str) -> dict[str, Curve]:
    """The curves of the first arm of each kind that has one."""
    arms: dict[str, str] = {arm.kind: arm.name for arm in reversed(plan.arms) if arm.kind in _CURVES}
    found: dict[str, Curve] = {}
    for kind in _CURVES:
        summaries = [run.summary() for run in plan.runs() if run.arm == arms.get(kind)]
        histories: list[Sequence[Mapping[str, float]]] = [s["history"] for s in summaries if s is not None]
        # Epochs that run.validate_every leaves out are empty, and early stopping makes histories of several lengths.
        epochs = enumerate(zip_longest(*histories, fillvalue={}), 1)
        curve = {n: [e[metric] for e in entries if e.get(metric) is not None] for n, entries in epochs}
        if any(curve.values()):
            found[kind] = {n: values for n, values in curve.items() if values}
    return found


def _draw_curve(axes: Axes, kind: str, curve: Curve) -> None:
    name, colour = _CURVES[kind]
    epochs, values = list(curve), list(curve.values())
    means = list(map(statistics.mean, values))
    label = f"{name}, mean of {max(map(len, values))}: {means[-1]:.3g}"
    axes.fill_between(epochs, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, means, color=colour, linewidth=2, label=label)


def _draw_differences(axes: Axes, comparison: Comparison, labels: Mapping[str, str]) -> None:
    reference = comparison.references[0] if comparison.references else ""
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
    axes.set(ylim=(-0.5, len(found)), xlabel=plain(f"{comparison.metric} less {reference}, 95% interval"))
