"""The gain against how far the tasks are apart: ``python docs/experiments/distance.py``, after ``run.py cross-distance``.

Distance = 1 - (probe - random) / (same - random): probe, the accuracy of a linear probe on the teacher's features for the
student's task; same, that of the teacher of the same task; random, that of untrained ones. A probe sees as many labels as
the student, drawn many times from the training split, and is measured on the rest of it and on the validation split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _page import HERE, into_pages
from _plan import PLANS, read
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from stillhouse.experiments.arms import Arm
from stillhouse.training.preparation import prepare

PLAN = "cross-distance"
RANDOM, SAME = "untrained", "same task"
DRAWS, PER_CLASS = 30, 10

Numbers = NDArray[np.float64]


def features(arm: Arm) -> tuple[Numbers, Numbers]:
    """What the arm's teacher gives at ``stage3``, averaged over positions, for training and validation images, and their digits."""
    sys.path.insert(0, str(PLANS / "recipes"))
    from relabelled import digits

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


def main() -> int:
    """Write the table and the plot."""
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where the runs are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arms = {arm.name: arm for arm in read(PLAN, arguments.out, None, []).plan.arms}
    teachers = {name.removeprefix("inverted, "): arm for name, arm in arms.items() if name.startswith("inverted, ")}
    found = {name: probes(*features(arm)) for name, arm in teachers.items()}
    measured = {name: distance(own, found[SAME], found[RANDOM]) for name, own in found.items()}
    distances = {name: middle for name, (middle, _, _) in measured.items()}
    groups = json.loads((HERE / "results" / f"{PLAN}.json").read_text(encoding="utf-8"))["groups"]
    gains = {group["name"]: group["differences"]["none"] for group in groups}
    lines = [
        f"Command: `python docs/experiments/distance.py`. Probes from {PER_CLASS} labels a class, {DRAWS} draws, measured on "
        "the other training images and on the validation split; intervals over draws, the teachers being one training each. The "
        "gains are those of the table above.",
        "",
        "| teacher's task | probe, mean ± sd | distance [95%] | inverted | traditional |",
        "|---|---|---|---|---|",
    ]
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, kind in enumerate(("inverted", "traditional")):
        drawn = [(distances[name], gains[f"{kind}, {name}"]) for name in teachers]
        middle = np.array([gain["mean"] for _, gain in drawn])
        ends = np.array([[gain["mean"] - gain["low"], gain["high"] - gain["mean"]] for _, gain in drawn]).T
        at = np.array([apart for apart, _ in drawn]) + 0.008 * (2 * number - 1)
        axes.errorbar(at, middle, ends, fmt="os"[number], label=kind, color=f"C{number}", capsize=2, markersize=4)
    for name in sorted(teachers, key=lambda name: distances[name]):
        if name == (alike := [n for n in teachers if abs(distances[n] - distances[name]) < 1e-9])[0]:
            axes.annotate(", ".join(alike), (distances[name], axes.get_ylim()[1]), rotation=45, fontsize="small")
        cells = [f"{gains[f'{kind}, {name}']['mean']:+.4f}" for kind in ("inverted", "traditional")]
        middle, low, high = measured[name]
        told = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        own = found[name]
        lines.append(f"| {name} | {own.mean():.3f} ± {own.std(ddof=1):.3f} | {told} | {' | '.join(cells)} |")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(xlabel="distance of the teacher's task from the student's", ylabel="test accuracy less 'none'")
    axes.legend(fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "results" / f"{PLAN}-curve.png", dpi=110)
    lines += ["", f"![Gain against distance](results/{PLAN}-curve.png)"]
    into_pages(f"{PLAN}-curve", "\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
