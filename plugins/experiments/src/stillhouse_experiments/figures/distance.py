"""The gain against how far the tasks are apart, of an experiment whose arms are called ``inverted, TASK``, ``traditional, TASK``.

Distance = 1 - (probe - random) / (same - random): probe, the accuracy of a linear probe on the teacher's features for the
student's task; same, that of the teacher of the same task; random, that of untrained ones. A probe sees as many labels as
the student, drawn many times from the training split, and is measured on the rest of it and on the validation split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from stillhouse import StillhouseError, prepare
from stillhouse.experiments.arms import Arm
from stillhouse_experiments.drawing import panel, save
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.recipes.relabelled_digits import digits

__all__ = ["distance", "make", "probes"]

RANDOM, SAME = "untrained", "same task"
KINDS = ("inverted, ", "traditional, ")
DRAWS, PER_CLASS = 30, 10

Numbers = NDArray[np.float64]


def features(arm: Arm) -> tuple[Numbers, Numbers]:
    """The arm's teacher's ``stage3``, averaged over positions, of training and validation images (N, C), and their digits (N,)."""
    training = prepare(arm.recipe, write=False)
    teacher = training.run.teacher
    assert teacher is not None
    seen: list[torch.Tensor] = []
    layer = teacher.get_submodule("stage3")
    handle = layer.register_forward_hook(lambda _m, _i, output: seen.append(output.mean((2, 3))))
    mean, std = torch.tensor(training.run.data.mean), torch.tensor(training.run.data.std)
    found = digits()
    x, y = (torch.cat([found[split].tensors[i] for split in ("train", "val")]) for i in (0, 1))
    with torch.no_grad():
        teacher((x - mean[:, None, None]) / std[:, None, None])
    handle.remove()
    training.close()
    return seen.pop().double().numpy(), y.numpy()


def probes(x: Numbers, y: Numbers) -> Numbers:
    """The accuracies (DRAWS,) of a probe from PER_CLASS labels a class; the draws are the same for all teachers."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        order = generator.permutation(len(y))
        drawn = np.concatenate([order[y[order] == c][:PER_CLASS] for c in np.unique(y)])
        rest = np.setdiff1d(order, drawn)
        scale = x[drawn].std(0) + 1e-12
        fitted = LogisticRegression(max_iter=2000).fit((x[drawn] - x[drawn].mean(0)) / scale, y[drawn])
        found.append(fitted.score((x[rest] - x[drawn].mean(0)) / scale, y[rest]))
    return np.asarray(found)


def distance(own: Numbers, same: Numbers, random: Numbers) -> tuple[float, float, float]:
    """The distance, and the ends of its 95% interval over draws (bootstrap; a draw is one for all three)."""
    drawn = np.random.default_rng(1).integers(0, DRAWS, (10_000, DRAWS))

    def ratio(rows: Any) -> Any:
        return 1 - (own[rows].mean(-1) - random[rows].mean(-1)) / (same[rows].mean(-1) - random[rows].mean(-1))

    low, high = np.quantile(ratio(drawn), [0.025, 0.975])
    return float(ratio(np.arange(DRAWS))), float(low), float(high)


def make(request: Request) -> Figure:
    """The table and the plot of one experiment.

    Raises:
        StillhouseError: arms are not those that it needs, or the experiment's table is not there.
    """
    name = request.name
    torch.set_num_threads(1)
    arms = {arm.name: arm for arm in request.experiment().plan.arms}
    teachers = {arm.removeprefix(KINDS[0]): arms[arm] for arm in arms if arm.startswith(KINDS[0])}
    if not {RANDOM, SAME} <= teachers.keys():
        raise StillhouseError(f"needs the arms {KINDS[0] + RANDOM!r} and {KINDS[0] + SAME!r}", where=str(request.plan))
    gains = _gains(request.home.results / f"{name}.json", name)
    found = {task: probes(*features(arm)) for task, arm in teachers.items()}
    measured = {task: distance(own, found[SAME], found[RANDOM]) for task, own in found.items()}
    draw(measured, gains, request.home.results / f"{name}-curve.png")
    lines = [
        f"Command: `stillhouse experiment {name} --figure distance`. Probes from {PER_CLASS} labels a class, {DRAWS} draws, measured "
        "on the other training images and on the validation split; intervals over draws, the teachers being one training each. The "
        "gains are those of the table above.",
        "",
        "| teacher's task | probe, mean ± sd | distance [95%] | inverted | traditional |",
        "|---|---|---|---|---|",
    ]
    for task in sorted(teachers, key=lambda task: measured[task][0]):
        middle, low, high = measured[task]
        cells = [f"{gains[f'{kind}{task}']['mean']:+.4f}" for kind in KINDS]
        own = found[task]
        told = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {task} | {own.mean():.3f} ± {own.std(ddof=1):.3f} | {told} | {' | '.join(cells)} |")
    return Figure(f"{name}-curve", [*lines, "", f"![Gain against distance](results/{name}-curve.png)"])


def draw(measured: dict[str, tuple[float, float, float]], gains: dict[str, Any], path: Path) -> None:
    """Both kinds' gains and their intervals against the distance of the teacher's task."""
    figure, axes = panel(7, 3.6)
    for number, kind in enumerate(KINDS):
        drawn = [(middle, gains[f"{kind}{task}"]) for task, (middle, _, _) in measured.items()]
        middle = np.array([gain["mean"] for _, gain in drawn])
        ends = np.array([[gain["mean"] - gain["low"], gain["high"] - gain["mean"]] for _, gain in drawn]).T
        at = np.array([apart for apart, _ in drawn]) + 0.008 * (2 * number - 1)
        label = kind.removesuffix(", ")
        axes.errorbar(at, middle, ends, fmt="os"[number], label=label, color=f"C{number}", capsize=2, markersize=4)
    for apart in dict.fromkeys(round(middle, 9) for middle, _, _ in measured.values()):
        alike = [task for task, (middle, _, _) in measured.items() if abs(middle - apart) < 1e-8]
        axes.annotate(", ".join(alike), (apart, axes.get_ylim()[1]), rotation=45, fontsize="small")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(xlabel="distance of the teacher's task from the student's", ylabel="test accuracy less 'none'")
    axes.legend(fontsize="small")
    save(figure, path)


def _gains(numbers: Path, name: str) -> dict[str, Any]:
    if not numbers.exists():
        raise StillhouseError("is not there", where=str(numbers), hint=f"run it first: stillhouse experiment {name}")
    groups = json.loads(numbers.read_text(encoding="utf-8"))["groups"]
    return {group["name"]: group["differences"]["none"] for group in groups}
