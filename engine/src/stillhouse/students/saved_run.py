"""Saved runs: a run's recipe, lock, checkpoint and data info, read from its folder."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import attrs

from stillhouse.config.kept import KeptWeights
from stillhouse.config.overrides import parse_value
from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_lock
from stillhouse.config.trust import reading_stored
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, did_you_mean
from stillhouse.models.weights import find_weights
from stillhouse.tasks.builder import build_task
from stillhouse.teachers.saved_folder import read_info

__all__ = ["SavedRun", "guarded", "open_run"]

P = ParamSpec("P")
T = TypeVar("T")


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function of a run, its first argument, look up what the run names among what is registered alone.

    The function has an argument ``trust``; names in its ``data`` and ``overrides`` are the caller's own.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs).arguments
        own = [parse_value(text.partition("=")[2].strip()) for text in given.get("overrides", ())]
        named = [name for name in (given.get("data"), *own) if isinstance(name, str)]
        with reading_stored(given["run"], trust=given.get("trust", False), named=named):
            return function(*args, **kwargs)

    return inner


@attrs.frozen(eq=False)
class SavedRun:
    """A run's folder, as read by :func:`open_run`.

    Attributes:
        folder: the run's folder.
        recipe: its recipe, with the overrides of ``recipe.data``.
        lock: the content of lock.json.
        weights: ``best`` or ``last``.
        averaged: whether the averaged weights of ``[ema]`` are used; else those that the run measured.
        checkpoint: the file of the weights.
        step: the number of optimizer steps of these weights.
        own_data: whether the recipe's data are those of the training.
        info: the data info of the training.
    """

    folder: Path
    recipe: Recipe
    lock: Mapping[str, Any]
    weights: KeptWeights
    averaged: bool
    checkpoint: Path
    step: int
    own_data: bool
    info: DataInfo

    @property
    def task(self) -> Task:
        """The task of its recipe, newly built."""
        return build_task(self.recipe.task, self.recipe.base)


def open_run(
    path: str | Path, *, weights: KeptWeights | None = None, averaged: bool = False, overrides: Sequence[str] = ()
) -> SavedRun:
    """Read a run's folder.

    Args:
        path: the folder.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        overrides: keys of ``[data]`` to change, ``data.size=64``; of ``[run]``, ``base`` and ``threads`` may be.

    Raises:
        StillhouseError: no run, no such checkpoint, or a key that this cannot change.
    """
    folder = Path(path)
    if not (folder / "recipe.toml").is_file():
        raise _make_folder_error(folder)
    wrong = [o for o in overrides if not re.match(r"data\.|run\.(base|threads)=", o)]
    if wrong:
        raise StillhouseError(
            faults=[
                Fault("--set", f"must be data.KEY=VALUE, run.base=... or run.threads=..., got {o!r}") for o in wrong
            ]
        )
    original = Recipe.load(folder / "recipe.toml")
    recipe = Recipe.load(folder / "recipe.toml", overrides=overrides) if overrides else original
    found = find_weights(folder, weights)
    lock = read_lock(folder / "lock.json")
    return SavedRun(
        folder=folder,
        recipe=recipe,
        lock=lock,
        weights=found.kind,
        averaged=averaged,
        checkpoint=found.file,
        step=found.step,
        own_data=_is_same_data(recipe, original),
        info=read_info(lock, original),
    )


def _make_folder_error(folder: Path) -> StillhouseError:
    if folder.is_file():
        return StillhouseError("must be a run's folder, got a file", where=str(folder))
    if folder.is_dir():
        inside = sorted(p.parent.name for p in folder.glob("*/recipe.toml"))
        hint = did_you_mean("", (f"{folder / name}" for name in inside)) if inside else "a run's folder has one"
        return StillhouseError("is not a run folder: it has no recipe.toml", where=str(folder), hint=hint)
    beside = [str(p.parent) for p in folder.parent.glob("*/recipe.toml")]
    return StillhouseError("folder not found", where=str(folder), hint=did_you_mean(str(folder), beside))


_READING = ("batch_size", "eval_batch_size", "drop_last", "workers", "prefetch", "cache", "skip_bad")
"""Keys of ``[data]`` that change how samples are read, but neither which ones nor the result."""


def _is_same_data(recipe: Recipe, original: Recipe) -> bool:
    sides = [{k: v for k, v in r.to_dict()["data"].items() if k not in _READING} for r in (recipe, original)]
    return sides[0] == sides[1] and recipe.base == original.base
