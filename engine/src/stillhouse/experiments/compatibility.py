"""Compatibility of runs: one task, the same data, weights, code and versions; where they are mixed, it is marked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.entries import TASKS, installed
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.training.facts import list_facts, list_surroundings

__all__ = ["Facts", "check_alike", "check_comparable", "collect_facts"]

_SHOWN = 3
"""The number of folders that a message names of those with a common value."""

Facts = Mapping[tuple[str, str], frozenset[str]]
"""The values that runs have of each thing that they should have alike."""


def collect_facts(runs: Sequence[FinishedRun], metric: str = "") -> Facts:
    """What ``runs`` have of each thing that compared runs should have alike; see :mod:`stillhouse.training.facts`.

    Args:
        runs: of one group.
        metric: ``SPLIT/NAME``: what they were measured on counts as well; empty: it does not.
    """
    found: dict[tuple[str, str], frozenset[str]] = {}
    for run in runs:
        for key, value in _list_all_facts(run, metric).items():
            found[key] = found.get(key, frozenset()) | {value}
    return found


def _list_all_facts(run: FinishedRun, metric: str) -> dict[tuple[str, str], str]:
    measured = _describe_data(run, metric) if metric else {}
    return {**list_facts(run.recipe, run.lock), **{(name, ""): value for name, value in measured.items()}}


def check_comparable(runs: Sequence[FinishedRun], metric: str, *, mixed: bool = False) -> list[str]:
    """Refuse runs of different tasks, and those that were measured on different data or are not alike besides.

    Args:
        runs: those to be compared.
        metric: ``SPLIT/NAME``.
        mixed: compare runs that are not alike all the same; of different tasks they are refused in any case.

    Returns:
        What they are mixed in, in words; empty where they are alike.

    Raises:
        StillhouseError: they are not alike; each difference is named with its runs.
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
    return check_alike(runs, metric, mixed=mixed)


def check_alike(runs: Sequence[FinishedRun], metric: str = "", *, mixed: bool = False) -> list[str]:
    """Refuse runs of other data, weights, code or versions, and warn of other machines.

    Args:
        runs: those to be compared.
        metric: as for :func:`collect_facts`.
        mixed: compare them all the same.

    Returns:
        What they are mixed in, in words; empty where they are alike.

    Raises:
        StillhouseError: they are not alike; each difference is named with its runs.
    """
    unknown = [str(run.folder) for run in runs if not run.lock]
    if unknown:
        text = f"nothing says what these runs were made with, as their lock cannot be read: {', '.join(unknown)}"
        warnings.warn(text, StillhouseWarning, stacklevel=3)
    seen: dict[tuple[str, str], dict[str, list[Path]]] = {}
    around: dict[str, dict[str, list[Path]]] = {}
    for run in runs:
        for key, value in _list_all_facts(run, metric).items():
            seen.setdefault(key, {}).setdefault(value, []).append(run.folder)
        for name, value in list_surroundings(run.lock).items():
            around.setdefault(name, {}).setdefault(value, []).append(run.folder)
    _warn_of_machines(around)
    differing = [(what, _join_folders(values)) for (what, _), values in seen.items() if len(values) > 1]
    if not mixed:
        hint = "--mixed compares them all the same, and marks them"
        raise_faults(
            Fault(what, f"must be the same in runs that are compared, is {told}", hint) for what, told in differing
        )
    return [f"{what} is {told}" for what, told in differing]


def _warn_of_machines(around: Mapping[str, Mapping[str, Sequence[Path]]]) -> None:
    texts = [f"{name}: {', '.join(sorted(values))}" for name, values in around.items() if len(values) > 1]
    if texts:
        text = "the runs differ in what their last digits may follow from: " + "; ".join(texts)
        warnings.warn(text, StillhouseWarning, stacklevel=4)


def _describe_data(run: FinishedRun, metric: str) -> dict[str, str]:
    """Describe the data that a run was measured on, as far as its hash, which follows from more, does not say it."""
    split = metric.partition("/")[0].removesuffix("_ema")
    info: Any = run.lock.get("data_info")
    info = info if isinstance(info, Mapping) else {}
    sizes = info.get("sizes")
    told = {
        "data.args": json.dumps(run.recipe.data.args, sort_keys=True, default=str),
        "the number of classes": info.get("classes"),
        f"the number of samples of the split {split!r}": sizes.get(split) if isinstance(sizes, Mapping) else None,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def _join_folders(found: Mapping[str, Sequence[Path]]) -> str:
    """Join values with their folders: ``'a' in runs/1, runs/2 and 'b' in runs/3``."""
    told = []
    for value, paths in found.items():
        folders = list(dict.fromkeys(paths))
        more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
        told.append(f"{value} in {', '.join(map(str, folders[:_SHOWN]))}{more}")
    return ", ".join(told[:-1]) + " and " + told[-1]
