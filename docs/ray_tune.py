"""A sweep over many machines with Ray Tune: each trial is one run, trained as the command line would.

Ray is no dependency of Stillhouse: ``pip install "ray[tune]"``. Run it from anywhere on the cluster, with a recipe and a folder
on a file system that every machine sees, and with the values to try, or those of ``SPACE``::

    python ray_tune.py RECIPE FOLDER plugins.projector.kind=linear,orthogonal run.seed=0,1,2
    python ray_tune.py RECIPE FOLDER --asha optimizer.lr=1e-3,3e-3,1e-2 plugins.features.weight=0.1,1,10

With ``--asha`` trials that are behind end early, by their validation scores. It compares all of them, whatever their seeds: give it
one seed. The same command goes on after an interruption. Afterwards ``stillhouse compare FOLDER`` makes the table, paired by seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ignite.engine import Events

ASHA = "--asha"
"""Asks for Li et al. 2020: after an eighth of the epochs, and whenever they have trebled, only the best third goes on."""

SPACE = {
    "plugins.projector.kind": ["linear", "orthogonal"],
    "optimizer.lr": [5e-4, 1e-3, 2e-3],
    "run.seed": [0, 1, 2, 3, 4],
}
"""Keys as in ``--set``, and the values to try: every combination is a trial."""

SHARE = {"cpu": 1, "gpu": 0}
"""What a trial takes of a machine; ``"gpu": 0.25`` puts four on one GPU."""


def trial(config: dict[str, Any], recipe: str, folder: str) -> None:
    """Train one run, or go on with it where it was interrupted, and report its validation score after every epoch."""
    from ray import tune

    from stillhouse import Recipe, prepare

    settings = [f"{key}={value}" for key, value in config.items()]
    out = Path(folder) / ",".join(settings)
    training = prepare(Recipe.load(recipe, overrides=[*settings, "run.threads=1"]), out=out, resume=True)
    run = training.run

    def report() -> None:
        # Where Ray ends the trial this raises SystemExit: the run is left like one that was interrupted.
        tune.report({"epoch": run.trainer.state.epoch, "score": run.metrics["val"][run.task.score]})

    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, report)
    result = training.fit()
    ends = {f"{split}/{k}": v for split, found in result.metrics.items() for k, v in found.items()}
    tune.report({"epoch": run.epochs, "score": result.metrics["val"][run.task.score], **ends})


def main(recipe: str, folder: str, *grid: str) -> int:
    """Hand the trials to Ray; 1 where one of them failed."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from stillhouse import Recipe
    from stillhouse.tasks.builder import build_task

    # Ray starts trials in folders of its own: paths must not depend on where they start.
    where = {"recipe": str(Path(recipe).resolve()), "folder": str(Path(folder).resolve())}
    trainable = tune.with_resources(tune.with_parameters(trial, **where), SHARE)
    given = {key: values.split(",") for key, _, values in (axis.partition("=") for axis in grid if axis != ASHA)}
    space = {key: tune.grid_search(values) for key, values in (given or SPACE).items()}
    scheduler = None
    if ASHA in grid:
        known = Recipe.load(recipe)
        mode, epochs = build_task(known.task, known.base).score_mode, known.run.epochs
        scheduler = ASHAScheduler(
            "epoch",
            "score",
            mode,
            max_t=epochs,
            grace_period=max(1, epochs // 8),
            reduction_factor=3,
            stop_last_trials=False,
        )
    results = tune.Tuner(trainable, param_space=space, tune_config=tune.TuneConfig(scheduler=scheduler)).fit()
    for error in results.errors:
        print(error, file=sys.stderr)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
