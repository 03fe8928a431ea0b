"""The gain against how far the tasks are apart: ``python docs/experiments/distance.py``, after ``run.py cross-distance``.

Distance = 1 - (probe - random) / (same - random): probe, the accuracy of a linear probe on the teacher's features for the
student's task; same, that of the teacher of the same task; random, that of untrained ones. Probes see all training labels
and are measured on the validation split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from _page import HERE, into_pages
from _plan import PLANS, read
from sklearn.linear_model import LogisticRegression

from stillhouse.experiments.arms import Arm
from stillhouse.training import prepare

PLAN = "cross-distance"
RANDOM, SAME = "untrained", "same task"


def probe(arm: Arm) -> float:
    """Accuracy of a linear probe on what the arm's teacher gives at ``stage3``, averaged over positions."""
    sys.path.insert(0, str(PLANS / "recipes"))
    from relabelled import digits

    training = prepare(arm.recipe, write=False)
    teacher = training.run.teacher
    assert teacher is not None
    seen: list[torch.Tensor] = []
    layer = teacher.get_submodule("stage3")
    handle = layer.register_forward_hook(lambda _m, _i, output: seen.append(output.mean((2, 3))))
    sides = []
    mean, std = torch.tensor(training.run.data.mean), torch.tensor(training.run.data.std)
    for split in ("train", "val"):
        x, y = digits()[split].tensors
        with torch.no_grad():
            teacher((x - mean[:, None, None]) / std[:, None, None])
        sides.append((seen.pop().double().numpy(), y.numpy()))
    handle.remove()
    training.close()
    (x, y), (x_val, y_val) = sides
    scale = x.std(0) + 1e-12
    fitted = LogisticRegression(max_iter=2000).fit((x - x.mean(0)) / scale, y)
    return float(fitted.score((x_val - x.mean(0)) / scale, y_val))


def main() -> int:
    """Write the table and the plot."""
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where the runs are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arms = {arm.name: arm for arm in read(PLAN, arguments.out, None, []).plan.arms}
    teachers = {name.removeprefix("inverted, "): arm for name, arm in arms.items() if name.startswith("inverted, ")}
    probes = {name: probe(arm) for name, arm in teachers.items()}
    span = probes[SAME] - probes[RANDOM]
    distances = {name: 1 - (value - probes[RANDOM]) / span for name, value in probes.items()}
    groups = json.loads((HERE / "results" / f"{PLAN}.json").read_text(encoding="utf-8"))["groups"]
    gains = {group["name"]: group["differences"]["none"] for group in groups}
    lines = [
        "Command: `python docs/experiments/distance.py`. Probes are fitted on all training labels and measured on the "
        "validation split; the gains are those of the table above.",
        "",
        "| teacher's task | probe | distance | inverted | traditional |",
        "|---|---|---|---|---|",
    ]
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, kind in enumerate(("inverted", "traditional")):
        found = [(distances[name], gains[f"{kind}, {name}"]) for name in teachers]
        middle = np.array([gain["mean"] for _, gain in found])
        ends = np.array([[gain["mean"] - gain["low"], gain["high"] - gain["mean"]] for _, gain in found]).T
        at = np.array([distance for distance, _ in found]) + 0.008 * (2 * number - 1)
        axes.errorbar(at, middle, ends, fmt="os"[number], label=kind, color=f"C{number}", capsize=2, markersize=4)
    for name in sorted(teachers, key=lambda name: distances[name]):
        if name == (alike := [n for n in teachers if abs(distances[n] - distances[name]) < 1e-9])[0]:
            axes.annotate(", ".join(alike), (distances[name], axes.get_ylim()[1]), rotation=45, fontsize="small")
        cells = [f"{gains[f'{kind}, {name}']['mean']:+.4f}" for kind in ("inverted", "traditional")]
        lines.append(f"| {name} | {probes[name]:.3f} | {distances[name]:.2f} | {' | '.join(cells)} |")
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
