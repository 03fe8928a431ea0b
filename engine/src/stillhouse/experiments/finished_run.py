"""Runs as comparisons take them: FinishedRun, and MissingRun for one that has no result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_lock
from stillhouse.errors import StillhouseError
from stillhouse.experiments.bootstrap import METRIC, Judged, read_judged
from stillhouse.training.folder import RunFolder

__all__ = ["FinishedRun", "MissingRun", "judge_runs"]


@attrs.frozen
class FinishedRun:
    """A run that was trained to its end.

    Attributes:
        folder: its folder.
        recipe: as it ran.
        summary: its summary.json.
        lock: its lock.json; empty where it cannot be read.
        arm: its arm in an ablation; empty for any other run.
    """

    folder: Path
    recipe: Recipe
    summary: Mapping[str, Any]
    lock: Mapping[str, Any] = attrs.field(factory=dict)
    arm: str = ""

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, summary: Mapping[str, Any], arm: str = "") -> FinishedRun:
        """The run in ``folder``, with its lock."""
        try:
            lock = read_lock(RunFolder(folder).lock)
        except StillhouseError:
            lock = {}
        return cls(folder, recipe, summary, lock, arm)

    def judge(self, metric: str) -> Judged | None:
        """Its test samples, where ``metric`` is theirs and it has kept what it said of them."""
        return read_judged(RunFolder(self.folder).predictions) if metric == METRIC else None


@attrs.frozen
class MissingRun:
    """A run that was begun, or planned, and has no result: it counts as a failure.

    Attributes:
        folder: its folder.
        recipe: as it was begun.
        seed: its seed.
        error: what is known of why.
        arm: as of :class:`FinishedRun`.
    """

    folder: Path
    recipe: Recipe
    seed: int
    error: str
    arm: str = ""

    def to_dict(self, name: str) -> dict[str, Any]:
        """Plain data, for a table's list of missing runs; ``name`` is its group's."""
        return {"arm": name, "seed": self.seed, "folder": str(self.folder), "error": self.error}


def judge_runs(runs: Sequence[FinishedRun], metric: str) -> dict[int, Judged]:
    """The test samples of each run that has kept what it said of them, by seed; none of a seed that several runs have."""
    seeds = [int(run.summary["seed"]) for run in runs]
    found = {seed: run.judge(metric) for seed, run in zip(seeds, runs, strict=True) if seeds.count(seed) == 1}
    return {seed: judged for seed, judged in found.items() if judged is not None}
