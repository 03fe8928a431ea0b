"""Packs of the files that an experiment of the full tier reads, for a machine that has a GPU and not the data sets.

The archive has the files that the runs and their teachers read, and the listing of the whole folders. Unpacked, a file that
was not packed is there by name, size and time of change, and holds zeros: splits and subsets of labels are chosen from the
listing, so they come out as from the whole set, and so does the data's fingerprint. Reading such a file is an error.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from stillhouse import Recipe, StillhouseError
from stillhouse.data import load_data
from stillhouse.experiments.tuning import change_arm
from stillhouse.memo import share_memo
from stillhouse.tasks import build_task
from stillhouse_experiments.experiment import Experiment
from stillhouse_experiments.home import Home
from stillhouse_experiments.tier import TierEntry

__all__ = ["files_read", "pack", "unpack"]

LIMIT = 45 * 2**20
"""Bytes of an archive."""
LISTING = "listing.json"
KEEPERS = ("tcs", "cache")
"""Plugins that may read the training split beyond the labelled samples."""


def files_read(experiment: Experiment, root: Path) -> set[str]:
    """The files below ``root``, by their path from there, that the experiment's runs and their teachers open.

    Found by opening: the data of every run are loaded and gone over once.
    """
    with share_memo(), _noting(root) as noted:
        seen, read = set(), set()
        for recipe in (each for run in _runs(experiment) for each in _recipes(run)):
            pool = any(str(table.get("use", "")).partition(":")[0] in KEEPERS for table in recipe.plugins)
            tables = recipe.to_dict()
            chosen = {k: v for k, v in tables["data"].items() if k not in ("batch_size", "eval_batch_size")}
            source = {k: v for k, v in chosen.items() if k not in ("per_class", "limit", "subset_seed")}
            about = [tables.get("task"), str(recipe.base)]
            key = json.dumps([chosen, *about, recipe.run.seed, pool], default=repr)
            if key in seen:
                continue
            seen.add(key)
            # In this process, or nobody notes what is opened.
            spec = attrs.evolve(recipe.data, workers=0)
            data = load_data(spec, build_task(recipe.task, recipe.base), seed=recipe.run.seed, base=recipe.base)
            try:
                for split in [*data.splits, *(["pool"] if pool else [])]:
                    ids = data.passes.ids(split)
                    samples = (json.dumps([source, *about], default=repr), ids.tobytes())
                    if samples not in read:  # a test split is every seed's
                        read.add(samples)
                        for _ in data.passes.once(ids):
                            pass
            finally:
                data.close()
        return {Path(path).relative_to(root).as_posix() for path in noted if Path(path).is_file()}


def pack(home: Home, entry: TierEntry, files: set[str], root: Path, to: Path) -> int:
    """Write the archive; its size in bytes.

    Raises:
        StillhouseError: files outside of the entry's folders, a folder that is missing, more than :data:`LIMIT`.
    """
    tops = {PurePosixPath(file).parts[0] for file in files}
    if unknown := sorted(tops - set(entry.data)):
        raise StillhouseError(f"{unknown[0]!r} is read, and not among its `data`", where=f"{home.tier}: {entry.name}")
    listing = [row for top in entry.data for row in _listed(root, top)]
    part = to.with_name(f"{to.name}.part")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(part, "w:gz", compresslevel=6) as archive:
            text = json.dumps(listing, separators=(",", ":")).encode()
            head = tarfile.TarInfo(LISTING)
            head.size = len(text)
            archive.addfile(head, io.BytesIO(text))
            for file in sorted(files):
                archive.add(root / file, arcname=file, recursive=False)
        size = part.stat().st_size
        if size > LIMIT:
            by = {top: sum(n for path, n, _ in listing if path in files and path.startswith(f"{top}/")) for top in tops}
            parts = ", ".join(f"{top} {n / 2**20:.1f}" for top, n in sorted(by.items()))
            raise StillhouseError(
                f"its files come to {size / 2**20:.1f} MiB, {(size - LIMIT) / 2**20:.1f} too many ({parts})",
                where=f"{home.tier}: {entry.name}",
                hint="lower data.per_class or data.limit, seeds, or choose fewer files by data.args.images",
            )
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    return size


def unpack(archive: Path, root: Path) -> tuple[int, int]:
    """Make the files below ``root``; those that are there in full stay. How many were packed, and how many are empty.

    Raises:
        StillhouseError: no such archive, or one of something else.
    """
    try:
        with tarfile.open(archive) as packed:
            head = packed.next()
            content = packed.extractfile(head) if head is not None and head.name == LISTING else None
            if content is None:
                raise StillhouseError("must be a pack of an experiment, and has no listing", where=str(archive))
            listing: list[tuple[str, int, int]] = json.load(content)
            if wrong := [p for p, _, _ in listing if PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts]:
                raise StillhouseError(f"names a file outside of its folder: {wrong[0]!r}", where=str(archive))
            members = [member for member in packed.getmembers() if member.name != LISTING]
            packed.extractall(root, members, filter="data")
    except (
        OSError,
        tarfile.TarError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
    ) as error:  # cut off, or another file
        raise StillhouseError(f"cannot be unpacked: {error}", where=str(archive)) from None
    whole = {member.name for member in members}
    for path, size, changed_at in listing:
        file = root / path
        if path not in whole:
            if file.exists():
                continue  # another experiment's pack had it
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as empty:
                empty.truncate(size)  # a hole: it takes no room
        os.utime(file, ns=(changed_at, changed_at))
    return len(whole), len(listing) - len(whole)


def _runs(experiment: Experiment) -> Iterator[Recipe]:
    """The recipes of all runs, those that choose values too: each reads the samples of its seed."""
    yield from (run.recipe for run in experiment.plan.runs())
    if experiment.tuning is not None:
        for arm in experiment.plan.arms:
            for seed in experiment.tuning.seeds:
                yield change_arm(arm, {"run.seed": seed}).recipe


def _recipes(recipe: Recipe) -> Iterator[Recipe]:
    """A recipe and those that train its models."""
    yield recipe
    for tables in _inner(recipe.to_dict()):
        yield from _recipes(Recipe.from_dict(tables))


def _inner(tables: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for value in tables.values():
        if isinstance(value, dict):
            if "data" in value and "student" in value:
                yield value
            else:
                yield from _inner(value)


def _listed(root: Path, top: str) -> Iterator[tuple[str, int, int]]:
    """(path below ``root``, bytes, time of change in ns) of every file of a folder."""
    if not (root / top).is_dir():
        raise StillhouseError(f"there is no folder {root / top}", hint="--data says where the data sets are")
    for file in sorted(p for p in (root / top).rglob("*") if p.is_file()):
        stat = file.stat()
        yield file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns


_listening: list[tuple[str, set[str]]] = []


@contextmanager
def _noting(root: Path) -> Iterator[set[str]]:
    """The files below ``root`` that this process opens within."""
    _listen()
    noted: set[str] = set()
    _listening.append((f"{root}{os.sep}", noted))
    try:
        yield noted
    finally:
        _listening.pop()


@cache
def _listen() -> None:
    """Hear of every opened file; once, for a hook cannot be taken away again."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if _listening and event == "open" and isinstance(arguments[0], str | os.PathLike):
            path = os.path.abspath(arguments[0])  # noqa: PTH100  # an audit hook is called for every file: keep it short
            for root, noted in _listening:
                if path.startswith(root):
                    noted.add(path)

    sys.addaudithook(note)
