"""The plan of an ablation: every arm under every seed, and the plan's file in the ablation's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
from filelock import FileLock

from stillhouse.config.home import shorten_home
from stillhouse.config.recipe import Recipe
from stillhouse.config.run import LONGEST_NAME
from stillhouse.config.stored import read_lock, read_plan_tables
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.experiments.arms import Arm, hash_arm
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.stopped_arm import StoppedArm
from stillhouse.files import write_json
from stillhouse.training.folder import RunFolder

__all__ = ["MEAN", "PLAN", "Plan", "PlannedRun", "name_folders", "read_finished_summary", "read_plan"]

PLAN = "ablation.json"
"""The plan's file in its folder."""
MEAN = "mean"
"""The folder of an arm's mean, as TensorBoard shows it, beside those of its seeds."""


@attrs.frozen
class PlannedRun:
    """One run of a plan.

    Attributes:
        index: its number, from 0, as in ``--only``: that of its arm among all that were asked for, seed by seed.
        arm: the arm's name.
        seed: the run's seed.
        folder: the run's folder.
        recipe: the arm's, with that seed.
    """

    index: int
    arm: str
    seed: int
    folder: Path
    recipe: Recipe

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of the run where it is finished, else None."""
        return read_finished_summary(self.folder, self.recipe)


@attrs.frozen
class Plan:
    """The arms and seeds of an ablation.

    Attributes:
        recipe: the ablated recipe, its plugin list resolved.
        arms: see :func:`stillhouse.experiments.arms.make_arms`.
        seeds: the seeds of every arm.
        folder: the folder of the runs' folders, ``ARM/seed-K``.
        figures: whether runs draw pictures for TensorBoard.
        names: of every arm that was asked for, by which runs are numbered; empty: the arms'.
        choices: what arms have chosen for themselves before; their recipes have it.
        stopped: arms that were stopped before, which are none of ``arms``, and why.
    """

    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    folder: Path
    figures: bool = False
    names: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    stopped: tuple[tuple[Arm, StoppedArm], ...] = ()

    @property
    def numbered(self) -> tuple[str, ...]:
        """The names by which runs are numbered, all of one seed before those of the next."""
        return self.names or tuple(arm.name for arm in self.arms)

    def runs(self) -> list[PlannedRun]:
        """List every run, seed by seed, so that an interrupted ablation has pairs to compare."""
        folders, names = name_folders([arm.name for arm in self.arms]), self.numbered
        found: list[PlannedRun] = []
        for place, seed in enumerate(self.seeds):
            for arm in self.arms:
                run = attrs.evolve(
                    arm.recipe.run,
                    seed=seed,
                    name=_name_run(self.recipe.run.name, folders[arm.name]),
                    # One thread for every run, so that results don't depend on how many run at once.
                    threads=arm.recipe.run.threads or 1,
                    figures=self.figures,
                )
                folder = self.folder / folders[arm.name] / f"seed-{seed}"
                index = place * len(names) + names.index(arm.name)
                found.append(PlannedRun(index, arm.name, seed, folder, attrs.evolve(arm.recipe, run=run)))
        return found

    def explain(self, index: int) -> str:
        """Say why the number ``index`` is no run: its arm is another's run, or cannot be built."""
        name = self.numbered[index % len(self.numbered)]
        same = next((arm.name for arm in self.arms if name in arm.merged), None)
        why = "cannot be built and is left out" if same is None else f"is the same run as {same!r}"
        return f"number {index} is nothing to train: the arm {name!r} {why}"

    def write(self) -> None:
        """Write the plan's file, or refuse a folder that holds another plan or other files.

        Seeds and arms may be added to a plan, but its arms may not change. Arms and seeds of the file that this plan
        lacks stay in it.

        Raises:
            StillhouseError: another recipe, an arm that is no longer the same run, or not an ablation's folder.
        """
        self.check_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StillhouseError(f"cannot be made: {error}", where=str(self.folder)) from error
        lock = self.folder / ".ablation.lock"
        with FileLock(lock):  # of two ablations that begin at once, each adds to what the other has written
            try:
                self._add_to_file()
            finally:
                lock.unlink(missing_ok=True)  # who waits for it finds that it is gone, and tries again

    def _add_to_file(self) -> None:
        before = read_plan(self.folder)
        tables = self._to_tables()
        if before is not None:
            raise_faults(self._find_differences(before))
            arms = {arm["name"]: arm for arm in [*before["arms"], *tables["arms"]]}
            tables["arms"] = list(arms.values())
            tables["seeds"] = sorted({*before["seeds"], *tables["seeds"]})
        if tables != before:
            write_json(self.folder / PLAN, tables)

    def check_folder(self) -> None:
        """Check the folder in advance as :meth:`write` does.

        Raises:
            StillhouseError: as :meth:`write`.
        """
        before = read_plan(self.folder)
        if before is not None:
            raise_faults(self._find_differences(before))
        RunFolder(self.folder)._check_writable()

    def _to_tables(self) -> dict[str, Any]:
        folders = name_folders([arm.name for arm in self.arms])
        return {
            "name": self.recipe.run.name,
            "recipe": shorten_home(self.recipe.to_dict()),
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
                    "merged": list(arm.merged),
                    "identity": hash_arm(arm.recipe),
                }
                for arm in self.arms
            ],
        }

    def _find_differences(self, before: dict[str, Any]) -> list[Fault]:
        from stillhouse.experiments.settings import flatten_settings

        where = str(self.folder / PLAN)
        advice = "start another ablation with --out"
        known = Recipe.from_dict(before["recipe"])
        if hash_arm(known) != hash_arm(self.recipe):
            old, new = flatten_settings(known), flatten_settings(self.recipe)
            return [
                Fault(
                    where,
                    f"{key} must stay {old.get(key, 'absent')!r} as in this ablation's plan, got {new.get(key, 'absent')!r}",
                    advice,
                )
                for key in dict.fromkeys([*old, *new])
                if old.get(key) != new.get(key)
            ] or [Fault(where, "the recipe must stay as in this ablation's plan", advice)]
        arms = {arm["name"]: arm["identity"] for arm in before["arms"]}
        return [
            Fault(where, f"the arm {arm.name!r} must stay the run that it is in this ablation's plan", advice)
            for arm in self.arms
            if arms.get(arm.name, hash_arm(arm.recipe)) != hash_arm(arm.recipe)
        ]


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Read the plan of an ablation's folder; None where the folder is missing or empty.

    Raises:
        StillhouseError: the folder holds other files, or its plan cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        raise StillhouseError("must be a folder, got a file", where=str(folder), hint="name another with --out")
    if not (folder / PLAN).exists():
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise StillhouseError(
                "is not an ablation's folder: it holds other files", where=str(folder), hint="name another with --out"
            )
        return None
    return read_plan_tables(folder / PLAN)


def read_finished_summary(folder: Path, recipe: Recipe | None = None) -> dict[str, Any] | None:
    """Read the summary of a finished run; None where it is not finished, or not the run of ``recipe``."""
    files = RunFolder(folder)
    summary = files.read_summary()
    if summary is None or recipe is None:
        return summary
    try:
        lock = read_lock(files.lock)
    except StillhouseError:
        return None
    return summary if lock.get("recipe") == recipe.digest() else None


def _name_run(ablated: str, folder: str) -> str:
    name = f"{ablated} {folder}"
    return name if len(name.encode()) <= LONGEST_NAME else folder


def name_folders(names: Sequence[str]) -> dict[str, str]:
    """Name a folder for each arm: its own name where a file system allows it, else cut and ended with a hash."""
    found = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._=,+-]", "_", name).strip(".")
        if plain != name or len(plain) > 100:
            plain = f"{plain[:80]}-{sha256(name.encode()).hexdigest()[:8]}"
        found[name] = plain
    return found
