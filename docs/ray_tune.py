"""A sweep over many machines with Ray Tune: each trial is one run, trained as the command line would.

Ray is no dependency of Stillhouse: ``pip install "ray[tune]"``. Run it from anywhere on the cluster, with a recipe and a folder
on a file system that every machine sees, and with the values to try, or those of ``SPACE``::

    python ray_tune.py RECIPE FOLDER plugins.projector.kind=linear,orthogonal run.seed=0,1,2

The same command goes on after an interruption. Afterwards ``stillhouse compare FOLDER`` makes the table, paired by seed.
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


def main(recipe: str, folder: str, *grid: str) -> int:
    """Hand the trials to Ray; 1 where one of them failed."""
    from ray import tune

    # Ray starts trials in folders of its own: paths must not depend on where they start.
    where = {"recipe": str(Path(recipe).resolve()), "folder": str(Path(folder).resolve())}
    trainable = tune.with_resources(tune.with_parameters(trial, **where), SHARE)
    given = {key: values.split(",") for key, _, values in (axis.partition("=") for axis in grid)}
    space = {key: tune.grid_search(values) for key, values in (given or SPACE).items()}
    results = tune.Tuner(trainable, param_space=space).fit()
    for error in results.errors:
        print(error, file=sys.stderr)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
