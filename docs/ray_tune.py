"""A sweep over many machines with Ray Tune: each trial is one run, trained as the command line would.

This script has not been run: Ray is no dependency of Stillhouse (``pip install "ray[tune]"``). It is written against
Ray 2.x's ``Tuner``. Run it from anywhere on the cluster: ``python ray_tune.py RECIPE FOLDER``; both must be on a file
system that every machine sees. Afterwards ``stillhouse compare FOLDER`` makes the table, paired by seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SPACE = {
    "plugins.projector.kind": ["linear", "orthogonal"],
    "optimizer.lr": [5e-4, 1e-3, 2e-3],
    "run.seed": [0, 1, 2, 3, 4],
}
"""Keys as in ``--set``, and the values to try: every combination is a trial."""

SHARE = {"cpu": 1, "gpu": 0}
"""What a trial takes of a machine; ``"gpu": 0.25`` puts four on one GPU."""


def trial(config: dict[str, Any], recipe: str, folder: str) -> None:
    """Train one run, or go on with it where it was interrupted."""
    from ray import tune

    from stillhouse import Recipe, train

    settings = [f"{key}={value}" for key, value in config.items()]
    out = Path(folder) / ",".join(settings)
    result = train(Recipe.load(recipe, overrides=[*settings, "run.threads=1"]), out=out, resume=True)
    tune.report({f"{split}/{k}": v for split, found in result.metrics.items() for k, v in found.items()})


def main(recipe: str, folder: str) -> None:
    """Hand the trials to Ray."""
    from ray import tune

    # Ray starts trials in folders of its own: paths must not depend on where they start.
    where = {"recipe": str(Path(recipe).resolve()), "folder": str(Path(folder).resolve())}
    trainable = tune.with_resources(tune.with_parameters(trial, **where), SHARE)
    space = {key: tune.grid_search(values) for key, values in SPACE.items()}
    results = tune.Tuner(trainable, param_space=space).fit()
    for error in results.errors:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
