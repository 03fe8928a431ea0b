"""Groups of finished runs that differ by the seed alone, compared with the settings that differ as columns."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_summary
from stillhouse.config.trust import reading_stored
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults
from stillhouse.experiments.arms import hash_arm
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.compatibility import check_comparable, collect_facts
from stillhouse.experiments.costs import average_costs, count_alarms
from stillhouse.experiments.finished_run import FinishedRun, MissingRun, judge_runs
from stillhouse.experiments.plan import PLAN, read_finished_summary, read_plan
from stillhouse.experiments.settings import find_differing, flatten_settings, format_value, shorten_values
from stillhouse.files import open_file
from stillhouse.training.folder import RunFolder

__all__ = ["choose_metric", "compare", "read_metric", "read_report", "read_runs"]

_MOST_FOLDERS = 20_000
"""Folders that are searched for runs: with more it is no folder of runs, but a disk."""


def compare(
    folders: Sequence[str | Path],
    *,
    metric: str | None = None,
    baseline: str | Path | None = None,
    mixed: bool = False,
    trust: bool = False,
) -> Comparison:
    """Compare runs: those whose recipes differ by the seed alone are one group.

    Runs that are not finished, or whose metric is not finite, count as failures of their group.

    Args:
        folders: runs' folders, or folders of runs (an ablation's too), which are searched.
        metric: ``SPLIT/NAME``; by default the task's score on the test split, or on the validation split.
        baseline: the folder of a run of the reference group; the first group by default.
        mixed: compare runs of other data, weights, code or versions all the same; they are marked.
        trust: import the runs' task, where no metric is given and their summaries do not name its score.

    Raises:
        StillhouseError: every folder without a finished run; runs of different tasks, or that are not alike; an unknown
            metric.
    """
    runs, missing = read_runs([Path(f) for f in folders])
    first = _find(runs, Path(baseline)) if baseline is not None else runs[0]
    groups: dict[str, list[FinishedRun]] = {}
    for run in [first, *(run for run in runs if run is not first)]:
        groups.setdefault(hash_arm(run.recipe), []).append(run)
    lacking: dict[str, list[MissingRun]] = {key: [] for key in groups}
    for lost in missing:
        lacking.setdefault(hash_arm(lost.recipe), []).append(lost)
    with reading_stored(runs[0].folder, trust=trust):
        metric = metric or choose_metric(runs)
    told = check_comparable(runs, metric, mixed=mixed)
    every: dict[str, list[FinishedRun | MissingRun]] = {key: [*groups.get(key, []), *lacking[key]] for key in lacking}
    settings = {key: flatten_settings(members[0].recipe) for key, members in every.items()}
    columns = find_differing(list(settings.values()))
    shown = {column: shorten_values([each.get(column) for each in settings.values()]) for column in columns}
    names = _name_groups(list(every.values()))
    made, told_missing = [], []
    for i, (key, name) in enumerate(zip(lacking, names, strict=True)):
        members = groups.get(key, [])
        values, without = read_metric(members, metric, name)
        failures = {run.seed: run for run in [*lacking[key], *without] if run.seed not in values}
        made.append(
            Group(
                name,
                values,
                {column: format_value(settings[key].get(column)) for column in columns},
                {names[0]: names[0]},
                short={column: texts[i] for column, texts in shown.items()},
                failed={seed: run.error for seed, run in failures.items()},
                facts=collect_facts(members, metric),
                costs=average_costs([run.summary for run in members]),
                alarms=count_alarms([run.summary for run in members]),
                recipe=every[key][0].recipe,
                runs=tuple(members),
                judged=judge_runs(members, metric),
            )
        )
        told_missing += [run.to_dict(name) for run in failures.values()]
    return compare_groups(metric, made, columns, told_missing, told)


def read_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[MissingRun]]:
    """Read the runs in ``folders``, and those that are not finished; what cannot be read is left out with a warning.

    Raises:
        StillhouseError: every folder in which there is none, and every named run that is not finished.
    """
    faults: list[Fault] = []
    runs: dict[Path, FinishedRun] = {}
    missing: dict[Path, MissingRun] = {}
    left: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            faults.append(Fault(str(folder), "folder not found"))
            continue
        named = RunFolder(folder).recipe.exists()
        found = 0
        for place, arm, planned in [(folder, "", None)] if named else _find_runs(folder):
            run = _read(place, arm)
            if run is not None:
                found += 1
                runs.setdefault(place.resolve(), run)
            elif named:
                faults += _explain(place)
            elif (lost := _read_missing(place, arm, planned)) is not None:
                missing.setdefault(place.resolve(), lost)
            else:
                left += [str(fault) for fault in _explain(place)]
        if not found and not named:
            faults.append(
                Fault(str(folder), "must hold a finished run", "name the folder of a run, or one with runs in it")
            )
    raise_faults(faults)
    if left:
        warnings.warn(f"left out: {'; '.join(left)}", StillhouseWarning, stacklevel=3)
    return list(runs.values()), [run for place, run in missing.items() if place not in runs]


def read_report(folder: Path) -> str:
    """Why the run in ``folder`` of an ablation has no result, as far as it is known."""
    try:
        with open_file(folder.with_name(f"{folder.name}.error.txt")) as file:
            lines = file.read().decode("utf-8").strip().splitlines()
    except (OSError, ValueError):
        lines = []
    if lines:
        return lines[-1].removeprefix("stillhouse.errors.StillhouseError: ")
    return "not finished" if RunFolder(folder).recipe.exists() else "not trained yet"


def _read_missing(folder: Path, arm: str, planned: Recipe | None) -> MissingRun | None:
    """The run in ``folder`` that has no result; None where its files are damaged."""
    files = RunFolder(folder)
    if files.summary.exists():
        try:
            read_summary(files.summary)
        except StillhouseError:
            return None
    try:
        recipe = Recipe.load(files.recipe) if files.recipe.exists() else planned
    except StillhouseError:
        return None
    return None if recipe is None else MissingRun(folder, recipe, recipe.run.seed, read_report(folder), arm)


def _read(folder: Path, arm: str) -> FinishedRun | None:
    """Read a finished run; None where it is not finished, or cannot be read."""
    summary = read_finished_summary(folder)
    try:
        return None if summary is None else FinishedRun.of(folder, Recipe.load(RunFolder(folder).recipe), summary, arm)
    except StillhouseError:
        return None


def _explain(folder: Path) -> Sequence[Fault]:
    """Why there is no finished run in ``folder``."""
    files = RunFolder(folder)
    try:
        if files.summary.exists():
            read_summary(files.summary)
            Recipe.load(files.recipe)
    except StillhouseError as error:
        return error.faults
    return [Fault(str(folder), "the run must be finished", "stillhouse train ... --resume")]


def _find_runs(folder: Path) -> list[tuple[Path, str, Recipe | None]]:
    """Find the runs in a folder with their arms, an ablation's in the order of its plan with the recipes of those that began."""
    if not (folder / PLAN).exists():
        return [(place, "", None) for place in _walk(folder)]
    plan = read_plan(folder) or {}
    found: list[tuple[Path, str, Recipe | None]] = []
    for arm in plan["arms"]:
        places = {seed: folder / arm["folder"] / f"seed-{seed}" for seed in plan["seeds"]}
        # A run that failed before its first checkpoint has left no recipe: it is its arm's under another seed.
        began = next((place for place in places.values() if RunFolder(place).recipe.exists()), None)
        try:
            known = None if began is None else Recipe.load(RunFolder(began).recipe)
        except StillhouseError:
            known = None
        for seed, place in places.items():
            planned = None if known is None else attrs.evolve(known, run=attrs.evolve(known.run, seed=seed))
            if RunFolder(place).recipe.exists() or planned is not None:
                found.append((place, str(arm["name"]), planned))
    return found


def _walk(folder: Path) -> list[Path]:
    """List the folders of runs in ``folder``."""
    found = []
    for seen, (place, inner, files) in enumerate(os.walk(folder)):
        if seen == _MOST_FOLDERS:
            what = f"has more than {_MOST_FOLDERS:,} folders below it"
            raise StillhouseError(what, where=str(folder), hint="name a folder of runs")
        if "recipe.toml" in files:
            found.append(Path(place))
            inner.clear()  # a run has no run in its own folder
        inner[:] = [name for name in inner if not name.startswith(".")]
    return sorted(found)


def _find(runs: Sequence[FinishedRun], folder: Path) -> FinishedRun:
    for run in runs:
        if run.folder.resolve() == folder.resolve() or run.folder.parent.resolve() == folder.resolve():
            return run
    raise StillhouseError(
        f"must be one of the compared runs, got {folder}",
        where="--baseline",
        hint=did_you_mean(str(folder), [str(r.folder) for r in runs]),
    )


def choose_metric(runs: Sequence[FinishedRun]) -> str:
    """Choose the task's score on the test split where there is one, else on the validation split."""
    recipe, metrics = runs[0].recipe, runs[0].summary["metrics"]
    score = _read_score(runs[0].summary)
    if score is None:
        from stillhouse.tasks.builder import build_task  # and torch: a run's summary mostly does without

        score = build_task(recipe.task, recipe.base).score
    split = next((s for s in ("test", "val") if score in metrics.get(s, {})), None)
    if split is None:
        raise StillhouseError(f"{runs[0].folder} has no {score!r}", hint="name another metric with --metric")
    return f"{split}/{score}"


def _read_score(summary: Mapping[str, Any]) -> str | None:
    """The name of the task's score, as a run notes it beside its best epoch; so that no task of others is imported."""
    best = summary.get("best")
    names = [key.removeprefix("val/") for key in best if key.startswith("val/")] if isinstance(best, Mapping) else []
    return names[0] if names else None


def read_metric(runs: Sequence[FinishedRun], metric: str, name: str) -> tuple[dict[int, float], list[MissingRun]]:
    """Read the metric by seed; several runs of one seed are averaged, with a warning.

    Returns:
        The values, and the runs of which it is not finite: they have none, and neither has their seed.

    Raises:
        StillhouseError: a run has no such metric; with the nearest names.
    """
    found: dict[int, list[float]] = {}
    missing = []
    for run in runs:
        values = {f"{split}/{k}": v for split, metrics in run.summary["metrics"].items() for k, v in metrics.items()}
        if metric not in values:
            raise StillhouseError(
                f"unknown metric {metric!r}", where=str(run.folder), hint=did_you_mean(metric, values)
            )
        seed, value = int(run.summary["seed"]), values[metric]
        if value is None or not math.isfinite(value):  # null since JSON has no NaN, which older runs wrote
            missing.append(MissingRun(run.folder, run.recipe, seed, f"{metric} is not finite", run.arm))
        else:
            found.setdefault(seed, []).append(float(value))
    for seed, values_of_seed in found.items():
        if len(values_of_seed) > 1:
            text = f"{name}: {len(values_of_seed)} runs have the seed {seed}; their mean counts as one"
            warnings.warn(text, StillhouseWarning, stacklevel=3)
    lost = {run.seed for run in missing}
    return {seed: sum(v) / len(v) for seed, v in sorted(found.items()) if seed not in lost}, missing


def _name_groups(groups: Sequence[Sequence[FinishedRun | MissingRun]]) -> list[str]:
    """Name each group: by its arm, its run's name, or else its first run's folder."""
    names = [members[0].arm or members[0].recipe.run.name for members in groups]
    return [
        name if names.count(name) == 1 else str(members[0].folder) for name, members in zip(names, groups, strict=True)
    ]
