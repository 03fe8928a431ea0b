"""The plan of an ablation: every run of every arm under every seed, and its file, by which a folder knows its own plan."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.experiments.arms import Arm, identity
from stillhouse.training.folder import RunFolder, write_json

__all__ = ["PLAN", "Plan", "PlannedRun", "finished_summary"]

PLAN = "ablation.json"
"""The plan's file in its folder."""


@attrs.frozen
class PlannedRun:
    """One run of a plan.

    Attributes:
        index: its number, from 0: what ``--only`` takes.
        arm: the arm's name.
        seed: the run's seed.
        folder: the run's folder.
        recipe: with that seed.
    """

    index: int
    arm: str
    seed: int
    folder: Path
    recipe: Recipe

    def summary(self) -> dict[str, Any] | None:
        """The summary of the run where it is finished, else None."""
        return finished_summary(self.folder, self.recipe)


@attrs.frozen
class Plan:
    """Arms and seeds.

    Attributes:
        recipe: what is ablated, plugin list resolved.
        arms: see :func:`stillhouse.experiments.arms.make_arms`.
        seeds: every arm runs under each.
        folder: where the runs' folders are: ``ARM/seed-K``.
        figures: whether runs draw pictures for TensorBoard.
    """

    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    folder: Path
    figures: bool = False

    def runs(self) -> list[PlannedRun]:
        """Every run, seed by seed, so that an interrupted ablation has pairs to compare."""
        folders = _folder_names([arm.name for arm in self.arms])
        found: list[PlannedRun] = []
        for seed in self.seeds:
            for arm in self.arms:
                run = attrs.evolve(
                    arm.recipe.run,
                    seed=seed,
                    name=f"{self.recipe.run.name} {arm.name}",
                    # One thread for every run, so that results don't depend on how many run at once.
                    threads=arm.recipe.run.threads or 1,
                    figures=self.figures,
                )
                folder = self.folder / folders[arm.name] / f"seed-{seed}"
                found.append(PlannedRun(len(found), arm.name, seed, folder, attrs.evolve(arm.recipe, run=run)))
        return found

    def write(self) -> None:
        """Write the plan's file, or refuse a folder that holds another plan or something else.

        Seeds and arms may be added to a plan; what its arms are may not change. Arms and seeds of the folder that are
        not asked for now stay in the file.

        Raises:
            StillhouseError: another recipe, an arm that is no longer the same run, something else than an ablation.
        """
        before = read_plan(self.folder)
        tables = self._tables()
        if before is not None:
            raise_faults(self._differences(before))
            arms = {arm["name"]: arm for arm in [*before["arms"], *tables["arms"]]}
            tables["arms"] = list(arms.values())
            tables["seeds"] = sorted({*before["seeds"], *tables["seeds"]})
        if tables == before:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StillhouseError(f"cannot be made: {error}", where=str(self.folder)) from error
        write_json(self.folder / PLAN, tables)

    def check_folder(self) -> None:
        """Refuse, before anything is done, what :meth:`write` refuses.

        Raises:
            StillhouseError: as :meth:`write`.
        """
        before = read_plan(self.folder)
        if before is not None:
            raise_faults(self._differences(before))
        RunFolder(self.folder)._check_writable()

    def _tables(self) -> dict[str, Any]:
        folders = _folder_names([arm.name for arm in self.arms])
        return {
            "name": self.recipe.run.name,
            "recipe": self.recipe.to_dict(),
            "seeds": list(self.seeds),
            "arms": [
                {
                    "name": arm.name,
                    "kind": arm.kind,
                    "folder": folders[arm.name],
                    "plugins": list(arm.plugins),
                    "settings": arm.settings,
                    "group": arm.group,
                    "reason": arm.reason,
                    "also": list(arm.also),
                    "identity": identity(arm.recipe),
                }
                for arm in self.arms
            ],
        }

    def _differences(self, before: dict[str, Any]) -> list[Fault]:
        from stillhouse.experiments.settings import flat_settings

        where = str(self.folder / PLAN)
        advice = "an ablation keeps its recipe: start another with --out"
        known = Recipe.from_dict(before["recipe"])
        if identity(known) != identity(self.recipe):
            old, new = flat_settings(known), flat_settings(self.recipe)
            return [
                Fault(where, f"{key} was {old.get(key, 'absent')!r} and is {new.get(key, 'absent')!r}", advice)
                for key in dict.fromkeys([*old, *new])
                if old.get(key) != new.get(key)
            ] or [Fault(where, "the recipe has changed since this ablation began", advice)]
        arms = {arm["name"]: arm["identity"] for arm in before["arms"]}
        return [
            Fault(where, f"the arm {arm.name!r} was another run when this ablation began", advice)
            for arm in self.arms
            if arms.get(arm.name, identity(arm.recipe)) != identity(arm.recipe)
        ]


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of an ablation's folder; None where there is no folder yet, or an empty one.

    Raises:
        StillhouseError: the folder holds something else, or its plan cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        raise StillhouseError("is a file, not a folder", where=str(folder), hint="name another with --out")
    if not (folder / PLAN).exists():
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise StillhouseError(
                "holds something else than an ablation", where=str(folder), hint="name another with --out"
            )
        return None
    try:
        tables: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StillhouseError(f"cannot be read: {error}", where=str(folder / PLAN)) from None
    if not isinstance(tables, dict) or not {"recipe", "arms", "seeds", "name"} <= tables.keys():
        raise StillhouseError("is no plan of an ablation", where=str(folder / PLAN), hint="name another with --out")
    return tables


def finished_summary(folder: Path, recipe: Recipe | None = None) -> dict[str, Any] | None:
    """The summary of a run that was trained to its end, and is the run of ``recipe`` where one is given; else None."""
    files = RunFolder(folder)
    summary = files.read_summary()
    if summary is None or recipe is None:
        return summary
    try:
        lock = json.loads(files.lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if lock.get("recipe") == recipe.digest() else None


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """A folder name for each arm: its own where a file system takes it, else cut and ended with a hash."""
    found = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._=,+-]", "_", name).strip(".")
        if plain != name or len(plain) > 100:
            plain = f"{plain[:80]}-{sha256(name.encode()).hexdigest()[:8]}"
        found[name] = plain
    return found
