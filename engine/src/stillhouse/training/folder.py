"""A run's folder: the resolved recipe, the lock, checkpoints, TensorBoard events, summary.json."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe, is_beside_the_result
from stillhouse.config.stored import read_lock, read_summary
from stillhouse.config.trust import TRUST, is_trusting
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.files import TEMPORARY, write_json, write_text
from stillhouse.training.facts import list_changes

__all__ = ["HISTORY", "RunFolder", "flat", "is_leftover"]

HISTORY = "history.jsonl"
"""The name of the file of epochs' metrics."""

_LOGGERS = ("loggers", "metrics.csv")
"""A folder and a file that loggers may write."""

_WRITTEN_THROUGH = ("checkpoints", "tensorboard", HISTORY, *_LOGGERS, ".training.lock", ".training.json")
"""Where a run follows a link; its other files are put in a link's place."""


def is_leftover(name: str) -> bool:
    """Whether a file of this name is the lock's own, or one that a killed process left half-written."""
    return name.startswith((".training.", TEMPORARY))


class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.lock = path / "lock.json"
        self.summary = path / "summary.json"
        self.predictions = path / "predictions.npz"
        self.composition = path / "composition.txt"

    def check_links(self) -> None:
        """Refuse links that lead out of the folder at places that a run writes through, or deletes in.

        A stranger's folder would have files of yours written over; who trusts it says so.

        Raises:
            StillhouseError: such a link, and where it leads.
        """
        own = Path(os.path.realpath(self.path))
        raise_faults(
            Fault(
                str(link),
                f"is a link out of the run's folder, to {target}, and a run writes into its own folder alone",
                f"put what it leads to in its place; if you trust where the folder comes from: --trust, or {TRUST}",
            )
            for link in map(self.path.joinpath, _WRITTEN_THROUGH)
            if link.is_symlink()
            and not (target := Path(os.path.realpath(link))).is_relative_to(own)
            and not is_trusting(self.path)
        )

    def check(self, *, resume: bool) -> None:
        """Refuse a folder that cannot be written, and one that holds something; with ``resume`` one of anything but a run.

        Raises:
            StillhouseError: with what to do instead.
        """
        if self.path.exists() and not self.path.is_dir():
            raise StillhouseError("must be a folder, got a file", where=str(self.path), hint="name another with --out")
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        if resume and any(not n.startswith(".") for n in names) and not self.recipe.exists():
            raise StillhouseError(
                "is not a run folder: it holds other files", where=str(self.path), hint="name another with --out"
            )
        if not resume and not all(map(is_leftover, names)):
            hint = "go on with --resume, or name another folder with --out"
            if not self.recipe.exists() and not self.lock.exists():
                hint = "it is not a run folder: name another with --out"
            raise StillhouseError("the run folder exists already", where=str(self.path), hint=hint)
        self._check_writable()

    def _check_writable(self) -> None:
        here = self.path
        while not here.exists():
            here = here.parent
        if not here.is_dir():
            raise StillhouseError(
                f"{here} is a file, and no folder can be made in it",
                where=str(self.path),
                hint="name another with --out",
            )
        if not os.access(here, os.W_OK | os.X_OK):
            raise StillhouseError(
                f"no permission to write in {here}", where=str(self.path), hint="name another with --out"
            )
        try:  # what may be written cannot always be: a folder of the system's, a disk that is mounted to be read
            tried = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=here))
            with suppress(FileNotFoundError):  # who trains there has tidied it away
                tried.rmdir()
        except OSError as error:
            what = f"no folder can be made in {here}: {error.strerror or error}"
            raise StillhouseError(what, where=str(self.path), hint="name another with --out") from None

    def create(self, recipe: Recipe, lock: Mapping[str, Any], composition: str) -> None:
        """Make the folder with its recipe and lock.

        Raises:
            StillhouseError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StillhouseError(f"cannot be made: {error}", where=str(self.path)) from error
        write_text(self.recipe, recipe.to_toml())
        write_text(self.composition, composition)
        write_json(self.lock, dict(lock))

    def discard(self) -> None:
        """Take away what :meth:`create` made and what was written beside it, unless a checkpoint is among it.

        What a run leaves that was refused before it had learnt anything would only stand in the way of the next one.
        """
        if any((self.path / "checkpoints").glob("*.pt")):
            return
        for folder in ("checkpoints", "tensorboard", _LOGGERS[0]):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for file in (self.recipe, self.lock, self.composition, self.path / HISTORY, self.path / _LOGGERS[1]):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # something of somebody else's is in it
            self.path.rmdir()

    def compare(self, recipe: Recipe, lock: Mapping[str, Any]) -> list[str]:
        """Compare with the run that began in this folder.

        Returns:
            What differs and does not forbid going on: versions, device. One sentence each.

        Raises:
            StillhouseError: another recipe, other data or other plugins: it would be another run.
        """
        if not self.lock.exists():
            return []  # killed while the folder was being made: nothing has been trained yet
        before = read_lock(self.lock)
        own, other = ([(p["name"], p["use"]) for p in side["plugins"]] for side in (lock, before))
        same_data = lock["data"] == before.get("data")
        faults = [f for f in self._differences(recipe, same_data) if own == other or not f.what.startswith("plugins[")]
        if own != other:
            faults.insert(
                0,
                Fault(
                    str(self.lock),
                    f"the run began with the plugins {', '.join(n for n, _ in other) or 'none'}, "
                    f"and now they are {', '.join(n for n, _ in own) or 'none'}",
                    "a run keeps its plugins: start another with --out",
                ),
            )
        refused, notes = list_changes(before, lock)
        raise_faults([*faults, *(Fault(str(self.lock), what, "start another with --out") for what in refused)])
        return notes

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of a run that was trained to its last step, or to where early stopping ended it; None for any other."""
        try:
            summary = read_summary(self.summary)
        except StillhouseError:
            return None
        return summary if summary.get("steps_done") == summary.get("steps") or summary.get("stopped") else None

    def _differences(self, recipe: Recipe, same_data: bool) -> list[Fault]:
        if not self.recipe.exists():
            return []
        # A run may go on with other threads, on another machine say: the lock tells of it.
        before, recipe = (
            attrs.evolve(r, run=attrs.evolve(r.run, threads=None)) for r in (Recipe.load(self.recipe), recipe)
        )
        if same_data:  # wherever it lies
            before, recipe = (attrs.evolve(r, data=r.data.placeless) for r in (before, recipe))
        if before.digest() == recipe.digest():
            return []
        old, new = flat(before.to_dict()), flat(recipe.to_dict())
        changed = [
            f"{key} was {old.get(key, 'absent')!r} and is {new.get(key, 'absent')!r}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key) and not is_beside_the_result(key)
        ]
        return [
            Fault(str(self.recipe), text, "a resumed run keeps its recipe: start another with --out")
            for text in changed
        ]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested tables as one: ``{"run.seed": 0, "plugins[0].use": "features", ...}``."""
    if isinstance(value, Mapping):
        items = [(f"{key}.{k}" if key else str(k), v) for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        items = [(f"{key}[{i}]", v) for i, v in enumerate(value)]
    else:
        return {key: value}
    found: dict[str, Any] = {}
    for name, inner in items:
        found.update(flat(inner, name))
    return found
