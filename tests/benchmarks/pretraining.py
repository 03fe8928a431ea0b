"""What self-supervised pretraining on the digits is worth: a few-label linear probe of its features, against the same network untrained.

Target: at least 10 points. The probe is scikit-learn's logistic regression on the standardised features of stage 3.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import torch
from _bench import report
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillhouse import Recipe, prepare
from stillhouse import seeds as rng
from stillhouse.data import load_data
from stillhouse.data.splits import choose_per_class
from stillhouse.models import build_model
from stillhouse.tasks import build_task

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "digits-simclr.toml"
DRAWS = range(10)
QUANTILE = 2.262
"""Of Student's t with 9 degrees of freedom, for 95%."""


def features(model: torch.nn.Module, batches: object) -> tuple[np.ndarray, np.ndarray]:
    """Stage 3, averaged over positions, and the labels."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule("stage3").register_forward_hook(lambda *call: kept.append(call[2].mean((2, 3))))
    labels = []
    model.eval()
    with torch.no_grad():
        for batch in batches:  # type: ignore[attr-defined]
            model(batch.input)
            labels.append(batch.target)
    handle.remove()
    return torch.cat(kept).numpy(), torch.cat(labels).numpy()


def main() -> None:
    """Pretrain, probe and report."""
    torch.set_num_threads(1)
    recipe = Recipe.load(RECIPE)
    training = prepare(recipe, write=False)
    result = training.fit()
    task = build_task(recipe.task)
    untrained = build_model(
        recipe.student,
        training.run.data,
        seed=rng.derive(recipe.run.seed, "student"),
        where="student",
        outputs=task.outputs(training.run.data),
    )
    data = load_data(recipe.data, seed=0)
    found: dict[tuple[str, int], list[float]] = {}
    for name, model in (("pretrained", result.student), ("untrained", untrained)):
        train_x, train_y = features(model, data.evaluation("train"))
        test_x, test_y = features(model, data.evaluation("test"))
        for shots in (1, 5, 10):
            scores = []
            for draw in DRAWS:
                ids = np.arange(len(train_y))
                few = choose_per_class(ids, train_y, training.run.data.class_names, shots, draw)
                probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
                probe.fit(train_x[few], train_y[few])
                scores.append(100 * probe.score(test_x, test_y))
            found[name, shots] = scores
    rows = []
    for shots in (1, 5, 10):
        gains = [a - b for a, b in zip(found["pretrained", shots], found["untrained", shots], strict=True)]
        half = QUANTILE * statistics.stdev(gains) / math.sqrt(len(gains))
        means = [f"{statistics.mean(found[name, shots]):.1f}" for name in ("pretrained", "untrained")]
        rows.append((shots, *means, f"{statistics.mean(gains):+.1f} ± {half:.1f}", "at least +10"))
    report(
        "Self-supervised pretraining on the digits",
        ["labels a class", "pretrained", "untrained", "paired", "target"],
        rows,
        [
            f"Test accuracy of the probe in percent, means over {len(DRAWS)} draws of the labelled images; 95% intervals by "
            "Student's t over draws. One pretraining (`docs/recipes/digits-simclr.toml`, seed 0)."
        ],
    )


if __name__ == "__main__":
    main()
