"""Opening a run's teacher cache, or making it: under a lock, whole or not at all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.contract.assembly import Assembly
from stillhouse.contract.protocols import Batches
from stillhouse.data.sampler import Ids
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.teachers.cache.files import INDEX, TeacherCache, clear_leftovers, open_cache, read_index
from stillhouse.teachers.cache.key import cache_key, differences, digest_of, provenance
from stillhouse.teachers.cache.spec import CacheSpec
from stillhouse.teachers.cache.writer import fill, sample
from stillhouse.teachers.store import cache_folder, get_or_make, naming_disk_errors

__all__ = ["teacher_cache"]

_LOOK = 256
"""Samples that are enough to show shapes."""


def teacher_cache(assembly: Assembly, spec: CacheSpec) -> TeacherCache:
    """The answers of the run's teacher for its training samples, in evaluation mode, computed once.

    Call it in ``adapt`` or ``build``, while the teacher is there (see :meth:`stillhouse.contract.assembly.Assembly.release_teacher`
    for what comes after). Of several processes one does the pass and the others wait for it.

    A run that is only looked at (``assembly.inspect_only``) makes no cache: unless there is one already, it gets a few samples in memory.

    Raises:
        StillhouseError: a cache in ``spec.folder`` is of another teacher, transform or data set, or damaged; a layer
            that cannot be read; features that are not finite or too large for ``spec.store``; no room on the disk.
    """
    if spec in assembly.caches:
        known: TeacherCache = assembly.caches[spec]
        return known
    assembly.caches[spec] = cache = _found_or_made(assembly, spec)
    return cache


def _found_or_made(assembly: Assembly, spec: CacheSpec) -> TeacherCache:
    teacher, data = assembly.teacher, assembly.batches
    if teacher is None or data is None:
        raise StillhouseError("has no teacher to read", hint="add a [teacher] table")
    passes = data.passes
    ids = passes.ids(spec.split)
    data.repeat_looks(spec.views)
    key = cache_key(teacher, assembly.task, passes, ids, spec)
    folder = Path(spec.folder).expanduser() if spec.folder else Path()
    folder = assembly.recipe.base / folder if spec.folder else cache_folder() / "features" / digest_of(key)[:24]
    if assembly.inspect_only:
        return _look(assembly, data, ids, spec, folder, key)

    def find() -> TeacherCache | None:
        clear_leftovers(folder)
        there = folder.exists() and (not spec.folder or any(folder.iterdir()))
        return _opened(assembly, folder, key, was_there=True) if there else None

    def make() -> TeacherCache:
        fill(assembly, passes, ids, spec, folder, key)
        return _opened(assembly, folder, key, was_there=False)

    with naming_disk_errors(folder, "the teacher cache", "nothing was left behind"):
        return get_or_make(folder, find, make)


def _opened(assembly: Assembly, folder: Path, key: dict[str, Any], *, was_there: bool) -> TeacherCache:
    index = read_index(folder)
    differ = differences(index["key"], key)
    if differ:
        raise StillhouseError(
            "the cache is another one's: it differs in " + ", ".join(differ),
            where=str(folder),
            hint="name another folder, or none: the right cache is then found or made",
        )
    if was_there:
        now = provenance(assembly.device)
        other = [f"{k} {v} then, {now[k]} now" for k, v in index.get("provenance", {}).items() if now.get(k) != v]
        if other:
            text = f"the teacher cache {folder} was computed elsewhere ({'; '.join(other)}): last digits may differ"
            warnings.warn(text, StillhouseWarning, stacklevel=6)
    return open_cache(folder, index, was_there=was_there, verify=was_there)


def _look(
    assembly: Assembly, data: Batches, ids: Ids, spec: CacheSpec, folder: Path, key: dict[str, Any]
) -> TeacherCache:
    if (folder / INDEX).exists():
        return _opened(assembly, folder, key, was_there=True)
    rows = np.linspace(0, len(ids) - 1, min(_LOOK, len(ids))).astype(np.int64)
    walked = data.example().id.numpy()  # the assembling walk's batch asks for its own
    return sample(assembly, data.passes, np.union1d(ids[rows], walked[np.isin(walked, ids)]), spec)
