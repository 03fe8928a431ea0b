"""An experiment's teachers besides its runs: how good they are, their probes, and axes of other images."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import attrs

from stillhouse import Recipe, prepare
from stillhouse.experiments.comparison import Group
from stillhouse.memo import share_memo
from stillhouse.teachers.sources import teachers_run
from stillhouse_experiments.experiment import Experiment
from stillhouse_tcs import probe_teacher, save_axes

__all__ = ["make_axes", "probed", "teachers_line"]

_SCORES = ("accuracy", "miou", "psnr", "abs_rel", "loss")
"""Metrics that tell a teacher's quality, the first that its task has."""


def make_axes(experiment: Experiment) -> None:
    """Make the files of axes that arms name, once: of another recipe's images, as its teacher and its plugin tcs find them."""
    for file, recipe in experiment.axes.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            training = prepare(recipe, write=False)
            (cache,) = training.assembly.caches.values()
            save_axes(file, cache.moments)
            training.close()


def teachers_line(experiment: Experiment) -> str:
    """How good the teachers are that recipes train, by their own tasks' metric on their own data; empty where there are none."""
    recipes = [run.recipe for run in experiment.plan.runs()] + [arm.recipe for arm, _ in experiment.probes]
    asked: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.teacher is not None and recipe.teacher.recipe is not None:
            own = [recipe.data.per_class, recipe.data.limit, recipe.run.seed] if recipe.teacher.same_labels else None
            asked.setdefault(json.dumps([recipe.teacher.recipe, own], default=str), recipe)
    scores: dict[tuple[str, str], dict[Path, float]] = {}
    for recipe in asked.values():
        folder = teachers_run(recipe)
        if folder is None:
            continue
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for split in ("test", "val"):
            found = summary["metrics"].get(split, {})
            name = next((n for n in _SCORES if found.get(n) is not None), None)
            if name is not None:
                scores.setdefault((summary["name"], f"{split}/{name}"), {})[folder] = found[name]
                break
    told = []
    for (name, metric), values in scores.items():
        several = f" (mean of {len(values)})" if len(values) > 1 else ""
        told.append(f"`{name}` `{metric}` {statistics.mean(values.values()):.4f}{several}")
    return f"Teachers, on their own tasks: {'; '.join(told)}." if told else ""


def probed(experiment: Experiment) -> list[Group]:
    """The accuracies of the teachers' probes, by seed; kept beside the experiment's runs."""
    with share_memo():  # the data are read once for all of them
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
