"""What is asked of an experiment's teachers besides the runs: their probes, and axes of other images."""

from __future__ import annotations

import json

import attrs
from _plan import Experiment

from stillhouse import Recipe, prepare
from stillhouse.experiments.comparison import Group
from stillhouse_tcs import probe_teacher, save_axes


def make_axes(experiment: Experiment) -> None:
    """The files of axes that arms name: of another recipe's images, as that recipe's teacher and plugin tcs find them; made once."""
    for file, recipe in experiment.axes.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            training = prepare(Recipe.load(recipe), write=False)
            (cache,) = training.run.caches.values()
            save_axes(file, cache.moments)
            training.close()


def probed(experiment: Experiment) -> list[Group]:
    """The accuracies of the teachers' probes, by seed; kept beside the experiment's runs."""
    return [
        Group(arm.name, {seed: _accuracy(experiment, arm.recipe, layer, seed) for seed in experiment.plan.seeds})
        for arm, layer in experiment.probes
    ]


def _accuracy(experiment: Experiment, recipe: Recipe, layer: str, seed: int) -> float:
    recipe = attrs.evolve(recipe, run=attrs.evolve(recipe.run, seed=seed, threads=1), plugins=())
    kept = experiment.plan.folder / "probes" / f"{recipe.digest()[:16]}-{layer}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(probe_teacher(recipe, layer)), encoding="utf-8")
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found[experiment.metric.partition("/")[0]]
