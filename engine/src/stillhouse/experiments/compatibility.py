"""Compatibility of runs: one task, the same data, the same versions and devices."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.stored import read_lock
from stillhouse.entries import TASKS, installed
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.training.folder import RunFolder

__all__ = ["check_comparable", "warn_of_versions"]

_SHOWN = 3
"""The number of folders that a message names of those with a common value."""


def check_comparable(runs: Sequence[FinishedRun], metric: str) -> None:
    """Refuse runs of different tasks, and warn of runs that were measured on different data.

    Args:
        runs: those to be compared.
        metric: ``SPLIT/NAME``.

    Raises:
        StillhouseError: the runs have different tasks; each is named with its runs.
    """
    paths = {found.use: found.target for found in installed(TASKS)}
    tasks: dict[str, list[Path]] = {}
    for run in runs:
        tasks.setdefault(paths.get(run.recipe.task.name, run.recipe.task.name), []).append(run.folder)
    if len(tasks) > 1:
        names = {path: name for name, path in paths.items()}
        raise StillhouseError(
            "runs must have one task to be compared, got "
            + _join_folders({repr(names.get(task, task)): folders for task, folders in tasks.items()}),
            where="task.name",
            hint="compare the runs of one task",
        )
    differing: list[str] = []
    for key in (facts := {run.folder: _describe_data(run, metric) for run in runs})[runs[0].folder]:
        seen: dict[str, list[Path]] = {}
        for run in runs:
            seen.setdefault(facts[run.folder][key], []).append(run.folder)
        if len(seen) > 1:
            differing.append(f"{key} is {_join_folders(seen)}")
    if differing:
        warnings.warn(
            "the runs were measured on different data, which may explain their differences: " + "; ".join(differing),
            StillhouseWarning,
            stacklevel=3,
        )


def _describe_data(run: FinishedRun, metric: str) -> dict[str, str]:
    """Describe the data that a run was measured on."""
    spec, split = run.recipe.data, metric.partition("/")[0].removesuffix("_ema")
    info: Mapping[str, Any] = _read_lock(run.folder).get("data_info", {})
    return {
        "data.name": repr(spec.name),
        "data.args": json.dumps(spec.args, sort_keys=True, default=str),
        "the number of classes": str(info.get("classes", "unknown")),
        f"the number of samples of the split {split!r}": str(_sizes(info).get(split, "unknown")),
    }


def _sizes(info: Mapping[str, Any]) -> Mapping[str, Any]:
    sizes = info.get("sizes")
    return sizes if isinstance(sizes, Mapping) else {}


def _join_folders(found: Mapping[str, Sequence[Path]]) -> str:
    """Join values with their folders: ``'a' in runs/1, runs/2 and 'b' in runs/3``."""
    told = []
    for value, folders in found.items():
        more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
        told.append(f"{value} in {', '.join(map(str, folders[:_SHOWN]))}{more}")
    return ", ".join(told[:-1]) + " and " + told[-1]


def warn_of_versions(folders: Sequence[Path]) -> None:
    """Warn of versions and devices that differ between runs, which may explain their differences."""
    seen: dict[str, set[str]] = {}
    for folder in folders:
        lock = _read_lock(folder)
        if not lock:
            continue
        versions = {**lock.get("versions", {}), **{p["distribution"]: p["version"] for p in lock.get("plugins", [])}}
        for name, version in {**versions, "device": lock.get("device_name", "")}.items():
            seen.setdefault(name, set()).add(str(version))
    texts = [f"{name}: {', '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1]
    if texts:
        warnings.warn("the runs differ in versions or devices: " + "; ".join(texts), StillhouseWarning, stacklevel=3)


def _read_lock(folder: Path) -> dict[str, Any]:
    """Read a run's lock; empty where it cannot be read."""
    try:
        return read_lock(RunFolder(folder).lock)
    except StillhouseError:
        return {}
