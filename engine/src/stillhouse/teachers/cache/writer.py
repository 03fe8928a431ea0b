"""The pass: the teacher over every sample once, its arrays written as they come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.protocols import SamplesById
from stillhouse.data.sampler import Ids
from stillhouse.errors import StillhouseError
from stillhouse.files import sync_folder
from stillhouse.teachers.cache.arrays import ArrayWriter, write_small
from stillhouse.teachers.cache.files import REFERENCE, TeacherCache, write_index
from stillhouse.teachers.cache.key import provenance
from stillhouse.teachers.cache.moments import Moments
from stillhouse.teachers.cache.reader import OUTPUT, reading, tap_name
from stillhouse.teachers.cache.spec import CacheSpec

__all__ = ["fill", "sample"]

_SPARE = 16 << 20
_SMALLEST = float(np.finfo(np.float16).smallest_normal)
"""Bytes that are left free on the disk."""

_LARGE = 8
"""A mean so many times the spread costs float16 more than a millionth of the variance."""

_DTYPES: dict[str, Any] = {"float16": np.float16, "float32": np.float32}


def fill(assembly: Assembly, passes: SamplesById, ids: Ids, spec: CacheSpec, folder: Path, key: dict[str, Any]) -> None:
    """Make the cache in ``folder``. Whatever ends the pass early, nothing of it stays.

    Raises:
        StillhouseError: see :func:`stillhouse.teachers.cache.access.teacher_cache`.
        OSError: the disk is full, or the folder cannot be written.
    """
    temporary = folder.parent / f".{folder.name}.tmp{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    writers: dict[str, ArrayWriter] = {}
    try:
        references: dict[str, Any] = {}
        moments = _go_over(assembly, passes, ids, spec, writers, references, temporary)
        entries = {"ids": write_small(temporary / "ids.npy", ids)}
        for name, reference in references.items():
            file = temporary / f"{writers[name].path.stem}-reference.npy"
            entries[REFERENCE + name] = write_small(file, reference)
        entries |= {name: writer.close() for name, writer in writers.items()}
        index: dict[str, Any] = {"key": key, "arrays": entries, "provenance": provenance(assembly.device)}
        if moments is not None:
            entries["mean"] = write_small(temporary / "mean.npy", moments.mean.numpy())
            entries["scatter"] = write_small(temporary / "scatter.npy", moments.scatter.numpy())
            index["moments"] = {"count": moments.count, "square": moments.square}
        write_index(temporary, index)
        if folder.is_dir():
            folder.rmdir()  # an empty one that was named; Windows renames to none that is there
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        for writer in writers.values():
            writer.abandon()
        shutil.rmtree(temporary, ignore_errors=True)


def _go_over(
    assembly: Assembly,
    passes: SamplesById,
    ids: Ids,
    spec: CacheSpec,
    writers: dict[str, ArrayWriter],
    references: dict[str, Any],
    folder: Path,
) -> Moments | None:
    moments: Moments | None = None
    views = max(1, spec.views)
    waiting = _Waiting()
    with assembly.progress.counting("teacher's pass", views * len(ids)) as advance:
        for _, batch, arrays in _batches(assembly, passes, ids, spec):
            if not writers:
                _check_room(folder, arrays, views * len(ids), spec)
                for number, (name, x) in enumerate(arrays.items()):
                    shape = (views, len(ids), *x.shape[1:])
                    writers[name] = ArrayWriter(folder / f"{number}.npy", shape, _DTYPES[spec.store])
                    reference = _find_reference(name, x, spec)
                    if reference is not None:
                        references[name] = reference
            if spec.moments:
                x = arrays[tap_name(spec.taps[0])]
                moments = _added(moments, x, spec)
            # The device computes the next batch while this one is copied and written.
            waiting.push(partial(_write, writers, references, arrays, batch, spec))
            advance(len(batch.id))
        waiting.finish()
    return moments


def _find_reference(name: str, x: Tensor, spec: CacheSpec) -> Any:
    """What to take from every row of ``name``, float32 (...), so that float16 keeps its spread; None: nothing.

    float16 has 11 digits: of features whose mean is 2,000 times their standard deviation an eighth of the variance would
    be rounding. Taken away is the first batch's mean ``x``, which is near enough; and only where it matters, so that
    other rows are what the teacher gave, rounded once.
    """
    if spec.store != "float16" or name == OUTPUT or len(x) < 2:
        return None
    rows = x.double() if x.device.type in ("cpu", "cuda") else x.cpu().double()
    mean = rows.mean(0)
    spread = (rows - mean).square().mean().sqrt()
    if not bool(mean.abs().max() > _LARGE * spread) or not bool(mean.isfinite().all()):
        return None
    return mean.float().cpu().numpy()


class _Waiting:
    """One piece of work put off until the next one comes."""

    def __init__(self) -> None:
        self._work: Callable[[], None] | None = None

    def push(self, work: Callable[[], None]) -> None:
        self.finish()
        self._work = work

    def finish(self) -> None:
        if self._work is not None:
            self._work()
        self._work = None


def _batches(
    assembly: Assembly, passes: SamplesById, ids: Ids, spec: CacheSpec
) -> Iterator[tuple[int, Batch, dict[str, Tensor]]]:
    assert assembly.teacher is not None  # whoever calls has looked
    fold = assembly.recipe.speed.fold_norms
    with reading(assembly.teacher, assembly.task, spec, assembly.device, fold=fold) as read:
        for view in range(max(1, spec.views)):
            for batch in passes.once(ids, view if spec.views else None):
                yield view, batch, read(batch)


def _added(moments: Moments | None, x: Tensor, spec: CacheSpec) -> Moments:
    if x.ndim != 2:
        raise StillhouseError(
            f"gives {tuple(x.shape)} after pool = {spec.pool!r}, and feature vectors (B, C) are needed",
            where=f"teacher, layer {spec.taps[0]!r}",
            hint="pool = 'mean' or 'cls', or another layer",
        )
    moments = moments or Moments(x.shape[1])
    moments.add(x)
    return moments


def _write(
    writers: dict[str, ArrayWriter],
    references: dict[str, Any],
    arrays: dict[str, Tensor],
    batch: Batch,
    spec: CacheSpec,
) -> None:
    for name, x in arrays.items():
        rows = x.cpu().numpy()
        is_lost = spec.store == "float16" and 0.0 < float(np.abs(rows).max(initial=0.0)) < _SMALLEST
        if name in references and rows.shape[1:] == references[name].shape:
            rows = rows - references[name]
        with np.errstate(over="ignore"):  # looked for in the next line
            stored = rows.astype(_DTYPES[spec.store])
        if not np.isfinite(stored).all() or is_lost:
            raise _not_storable(name, rows, batch, spec)
        if stored.shape[1:] != writers[name].shape[2:]:
            raise StillhouseError(
                f"gives {stored.shape[1:]} for some samples and {writers[name].shape[2:]} for others",
                where=f"teacher, {name}",
                hint="samples of one size: set `size` in [data]; or pool = 'mean'",
            )
        writers[name].write(stored)


def _not_storable(name: str, rows: Any, batch: Batch, spec: CacheSpec) -> StillhouseError:
    bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(1)
    if bad.any():
        sample_id = int(batch.id[int(np.argmax(bad))])
        return StillhouseError(f"the values of sample {sample_id} are not finite", where=f"teacher, {name}")
    largest = float(np.abs(rows).max())
    limit = (
        "beyond the range of float16 (65,504)"
        if largest > 1
        else f"the greatest, and float16 has few digits below {_SMALLEST:.2g}"
    )
    return StillhouseError(
        f"a value of {largest:.3g} is {limit}",
        where=f"teacher, {name}",
        hint='store = "float32", or a layer after a normalisation',
    )


def _check_room(folder: Path, arrays: dict[str, Tensor], rows: int, spec: CacheSpec) -> None:
    needed = rows * sum(x[0].numel() for x in arrays.values()) * np.dtype(_DTYPES[spec.store]).itemsize
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise StillhouseError(
            f"the teacher cache takes {needed / 2**20:,.1f} MiB, {_SPARE / 2**20:.0f} MiB are to stay free beside it, and "
            f"{free / 2**20:,.1f} MiB are free",
            where=str(folder.parent),
            hint="make room, or set STILLHOUSE_CACHE to a folder on another disk",
        )


def sample(assembly: Assembly, passes: SamplesById, ids: Ids, spec: CacheSpec) -> TeacherCache:
    """A cache of a few samples, one view, in memory alone."""
    moments: Moments | None = None
    parts: dict[str, list[Any]] = {}
    for view, _, arrays in _batches(assembly, passes, ids, spec):
        if view:
            break
        if spec.moments:
            moments = _added(moments, arrays[tap_name(spec.taps[0])], spec)
        for name, x in arrays.items():
            parts.setdefault(name, []).append(x.cpu().numpy())
    arrays_of = {name: np.concatenate(rows)[None] for name, rows in parts.items()}
    return TeacherCache(torch.from_numpy(ids).numpy().copy(), arrays_of, moments, folder=None, was_there=False)
