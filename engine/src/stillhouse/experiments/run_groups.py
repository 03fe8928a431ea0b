"""Groups of finished runs that differ by the seed alone, compared with the settings that differ as columns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_summary
from stillhouse.config.trust import reading_stored
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults
from stillhouse.experiments.arms import hash_arm
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.compatibility import check_comparable, warn_of_versions
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.experiments.plan import PLAN, read_finished_summary, read_plan
from stillhouse.experiments.settings import find_differing, flatten_settings, format_value, shorten_values
from stillhouse.training.folder import RunFolder

__all__ = ["choose_metric", "compare", "read_metric", "read_runs"]

_MOST_FOLDERS = 20_000
"""Folders that are searched for runs: with more it is no folder of runs, but a disk."""


def compare(
    folders: Sequence[str | Path], *, metric: str | None = None, baseline: str | Path | None = None
) -> Comparison:
    """Compare runs: those whose recipes differ by the seed alone are one group.

    Args:
        folders: runs' folders, or folders of runs (an ablation's too), which are searched.
        metric: ``SPLIT/NAME``; by default the task's score on the test split, or on the validation split.
        baseline: the folder of a run of the reference group; the first group by default.

    Raises:
        StillhouseError: every folder without a finished run; runs of different tasks; an unknown metric.
    """
    runs = read_runs([Path(f) for f in folders])
    first = _find(runs, Path(baseline)) if baseline is not None else runs[0]
    groups: dict[str, list[FinishedRun]] = {}
    for run in [first, *(run for run in runs if run is not first)]:
        groups.setdefault(hash_arm(run.recipe), []).append(run)
    with reading_stored(runs[0].folder):
        metric = metric or choose_metric(runs)
    check_comparable(runs, metric)
    settings = {key: flatten_settings(members[0].recipe) for key, members in groups.items()}
    columns = find_differing(list(settings.values()))
    shown = {column: shorten_values([each.get(column) for each in settings.values()]) for column in columns}
    names = _name_groups(list(groups.values()))
    warn_of_versions([run.folder for run in runs])
    made = []
    for i, ((key, members), name) in enumerate(zip(groups.items(), names, strict=True)):
        full = {column: format_value(settings[key].get(column)) for column in columns}
        short = {column: texts[i] for column, texts in shown.items()}
        made.append(Group(name, read_metric(members, metric, name), full, {names[0]: names[0]}, short=short))
    return compare_groups(metric, made, columns)


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read the finished runs in ``folders``; unfinished ones are left out with a warning unless named themselves.

    Raises:
        StillhouseError: every folder in which there is none, and every named run that is not finished.
    """
    faults: list[Fault] = []
    runs: dict[Path, FinishedRun] = {}
    left: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            faults.append(Fault(str(folder), "folder not found"))
            continue
        named = RunFolder(folder).recipe.exists()
        found = 0
        for place, arm in [(folder, "")] if named else _find_runs(folder):
            run = _read(place, arm)
            if run is not None:
                found += 1
                runs.setdefault(place.resolve(), run)
            elif named:
                faults += _explain(place)
            else:
                left += [str(fault) for fault in _explain(place)]
        if not found and not named:
            faults.append(
                Fault(str(folder), "must hold a finished run", "name the folder of a run, or one with runs in it")
            )
    raise_faults(faults)
    if left:
        warnings.warn(f"left out: {'; '.join(left)}", StillhouseWarning, stacklevel=3)
    return list(runs.values())


def _read(folder: Path, arm: str) -> FinishedRun | None:
    """Read a finished run; None where it is not finished, or cannot be read."""
    summary = read_finished_summary(folder)
    try:
        return None if summary is None else FinishedRun(folder, Recipe.load(RunFolder(folder).recipe), summary, arm)
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


def _find_runs(folder: Path) -> list[tuple[Path, str]]:
    """Find the runs in a folder with their arms, an ablation's in the order of its plan."""
    if (folder / PLAN).exists():
        plan = read_plan(folder) or {}
        places = [
            (folder / arm["folder"] / f"seed-{seed}", str(arm["name"]))
            for arm in plan["arms"]
            for seed in plan["seeds"]
        ]
        return [(place, arm) for place, arm in places if RunFolder(place).recipe.exists()]
    found = []
    for seen, (place, inner, files) in enumerate(os.walk(folder)):
        if seen == _MOST_FOLDERS:
            what = f"has more than {_MOST_FOLDERS:,} folders below it"
            raise StillhouseError(what, where=str(folder), hint="name a folder of runs")
        if "recipe.toml" in files:
            found.append(Path(place))
            inner.clear()  # a run has no run in its own folder
        inner[:] = [name for name in inner if not name.startswith(".")]
    return [(place, "") for place in sorted(found)]


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
    from stillhouse.tasks.builder import build_task

    recipe, metrics = runs[0].recipe, runs[0].summary["metrics"]
    score = _read_score(runs[0].summary)
    if score is None:
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


def read_metric(runs: Sequence[FinishedRun], metric: str, name: str) -> dict[int, float]:
    """Read the metric by seed; several runs of one seed are averaged, with a warning.

    Raises:
        StillhouseError: a run has no such metric; with the nearest names.
    """
    found: dict[int, list[float]] = {}
    for run in runs:
        values = {f"{split}/{k}": v for split, metrics in run.summary["metrics"].items() for k, v in metrics.items()}
        if metric not in values:
            raise StillhouseError(
                f"unknown metric {metric!r}", where=str(run.folder), hint=did_you_mean(metric, values)
            )
        found.setdefault(int(run.summary["seed"]), []).append(float(values[metric]))
    for seed, values_of_seed in found.items():
        if len(values_of_seed) > 1:
            text = f"{name}: {len(values_of_seed)} runs have the seed {seed}; their mean counts as one"
            warnings.warn(text, StillhouseWarning, stacklevel=3)
    return {seed: sum(v) / len(v) for seed, v in sorted(found.items())}


def _name_groups(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Name each group: by its arm, its run's name, or else its first run's folder."""
    names = [members[0].arm or members[0].recipe.run.name for members in groups]
    return [
        name if names.count(name) == 1 else str(members[0].folder) for name, members in zip(names, groups, strict=True)
    ]
