"""What lies on the disk: one .npy array for each thing read, and an index with its checksums.

    FOLDER/
        index.json      the key, the arrays with file, shape, dtype and SHA-256, where they were computed
        ids.npy         the samples' ids (N,), int64
        0.npy, ...      (V, N, ...), float16: V augmented views, or one
        mean.npy, scatter.npy     float64, where they were asked for
        0-reference.npy, ...      float32 (...): what was taken from every row, where float16 would lose the rows' spread

A folder is written under a temporary name beside its own and renamed when it is whole. It is never changed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.files import open_file, read_table, replacing
from stillhouse.teachers.cache.moments import Moments

__all__ = [
    "REFERENCE",
    "TeacherCache",
    "clear_leftovers",
    "open_cache",
    "read_index",
    "write_index",
]

INDEX = "index.json"
REFERENCE = "reference/"
"""The name of what was taken from every row of an array begins so; its own name follows."""
_DELETE = "delete this folder: the cache is made anew"


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index with a checksum of its own, and force the folder's entries onto the disk."""
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({**index, "sha256": _digest(index)}, indent=1), encoding="utf-8")


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(json.loads(json.dumps(index)), sort_keys=True).encode()).hexdigest()


def clear_leftovers(folder: Path) -> None:
    """Remove what killed passes left: of ``folder``, whose lock the caller holds, and of any other beside it.

    A pass holds its folder's lock while it works: where that can be had, nobody does.
    """
    for left in folder.parent.glob(".*.tmp*"):
        found = re.fullmatch(r"\.(.+)\.tmp\d+", left.name)
        if found is None:
            continue
        lock = folder.parent / f".{found[1]}.lock"
        if found[1] == folder.name:
            shutil.rmtree(left, ignore_errors=True)
        elif lock.exists():
            with contextlib.suppress(Timeout), FileLock(lock, blocking=False):
                shutil.rmtree(left, ignore_errors=True)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the cache in ``folder``.

    Raises:
        StillhouseError: there is none, or it is damaged.
    """
    if not (folder / INDEX).exists():
        raise StillhouseError(
            "this folder is no teacher cache: it has no index.json", where=str(folder), hint="name another folder"
        )
    try:
        index = read_table(folder / INDEX, "a cache's index")
    except StillhouseError as error:
        raise StillhouseError(
            f"the cache's index is damaged: {error.faults[0].what}", where=str(folder), hint=_DELETE
        ) from None
    seal = index.pop("sha256", None)
    if seal != _digest(index) or not (isinstance(index.get("key"), dict) and isinstance(index.get("arrays"), dict)):
        raise StillhouseError(
            "the cache's index is damaged or another version's: its checksum differs", where=str(folder), hint=_DELETE
        )
    return index


def open_cache(folder: Path, index: Mapping[str, Any], *, was_there: bool, verify: bool = True) -> TeacherCache:
    """Map the arrays of the cache in ``folder`` into memory.

    Args:
        folder: the cache's.
        index: see :func:`read_index`.
        was_there: whether it was found rather than made.
        verify: compare the arrays with their checksums; a pass over the files.

    Raises:
        StillhouseError: a file is missing, cut off or changed.
    """
    try:
        arrays = {name: _mapped(folder, entry, verify) for name, entry in index["arrays"].items()}
        moments = None
        if "mean" in arrays:
            moments = Moments(len(arrays["mean"]))
            moments.count, moments.square = int(index["moments"]["count"]), float(index["moments"]["square"])
            moments.mean = torch.from_numpy(np.array(arrays.pop("mean")))
            moments.scatter = torch.from_numpy(np.array(arrays.pop("scatter")))
        ids = np.array(arrays.pop("ids"))
        named = [name for name in arrays if name.startswith(REFERENCE)]
        references = {name.removeprefix(REFERENCE): arrays.pop(name) for name in named}
    except (KeyError, TypeError, AttributeError) as error:
        raise StillhouseError(f"the cache's index is damaged: {error!r}", where=str(folder), hint=_DELETE) from None
    return TeacherCache(ids, arrays, moments, references=references, folder=folder, was_there=was_there)


def _mapped(folder: Path, entry: Mapping[str, Any], verify: bool) -> NDArray[Any]:
    path = folder / Path(str(entry["file"])).name  # it names no place outside
    try:
        # Copy on write: torch wants arrays that could be written to, and nothing reaches the file.
        open_file(path).close()  # a pipe would be waited for
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # noqa: BLE001 - a damaged header makes numpy raise what its parser does
        what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
        raise StillhouseError(f"the cache's file {what}", where=str(path), hint=_DELETE) from None
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        what = f"holds {array.dtype} {array.shape}, and the index says {entry['dtype']} {tuple(entry['shape'])}"
        raise StillhouseError(f"the cache's file {what}", where=str(path), hint=_DELETE)
    if verify and _sha256(array) != entry["sha256"]:
        raise StillhouseError(
            "the cache's file has changed since it was written: its checksum differs", where=str(path), hint=_DELETE
        )
    return array


def _sha256(array: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    flat = array.reshape(-1)
    step = max(1, (1 << 24) // max(1, array.itemsize))
    for start in range(0, len(flat), step):
        digest.update(np.ascontiguousarray(flat[start : start + step]).data)
    return digest.hexdigest()


class TeacherCache:
    """What a teacher gave for a set of samples, to be had by their ids; made by :func:`stillhouse.teachers.cache.teacher_cache`.

    Args:
        ids: the samples (N,), in the order of the rows.
        arrays: by name (``output``, ``features/LAYER``), (V, N, ...).
        moments: mean and scatter of the first layer's features.
        references: by name, what was taken from every row before it was rounded (...).
        folder: where it lies; None where it is in memory only.
        was_there: whether it was found rather than made.

    Attributes:
        served: rows given so far.
        missed: rows asked for that it does not have.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        arrays: Mapping[str, NDArray[Any]],
        moments: Moments | None,
        *,
        references: Mapping[str, NDArray[Any]] | None = None,
        folder: Path | None,
        was_there: bool,
    ) -> None:
        self.ids, self.folder, self.was_there = ids, folder, was_there
        self._moments = moments
        # from_numpy keeps the map: rows are read from the disk when they are asked for.
        self._arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._references = {name: torch.from_numpy(np.array(x)).double() for name, x in (references or {}).items()}
        self._row_of = torch.full((int(ids.max(initial=-1)) + 2,), -1, dtype=torch.int64)
        self._row_of[torch.from_numpy(ids)] = torch.arange(len(ids))
        self.served = self.missed = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._arrays)

    @property
    def moments(self) -> Moments:
        """Mean and scatter of the first layer's features over all samples and views, from float32 values."""
        if self._moments is None:
            raise ValueError("this cache was made without moments")
        return self._moments

    @property
    def views(self) -> int:
        """V: how many looks of each sample it has, at least 1."""
        return next(iter(self._arrays.values())).shape[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one sample's array."""
        return tuple(self._arrays[name].shape[2:])

    def missing(self, ids: Iterable[int] | NDArray[np.int64]) -> list[int]:
        """Those of ``ids`` that it does not have."""
        known = set(self.ids.tolist())
        return [int(i) for i in ids if int(i) not in known]

    def take(
        self,
        name: str,
        ids: Tensor,
        epoch: int = 0,
        device: torch.device | None = None,
        centre: Tensor | None = None,
    ) -> Tensor:
        """The rows of ``ids`` (B,), int64 on the CPU, as the view of ``epoch`` has them: (B, ...), float32 on ``device``.

        ``centre`` (...), float64 on the CPU, is taken from each before anything is rounded to float32. Reads no value of
        any tensor, so that a training step may call it.

        Raises:
            StillhouseError: a sample is not in the cache.
        """
        array = self._arrays[name]
        try:
            rows = array[epoch % array.shape[0]].index_select(0, self._row_of.index_select(0, ids))
        except IndexError:
            self.missed += len(ids)
            lacking = self.missing(ids.tolist())
            raise StillhouseError(
                f"{len(lacking)} of {len(ids)} samples are not in the teacher cache: ids {lacking[:4]}",
                where=str(self.folder or "teacher cache"),
            ) from None
        self.served += len(ids)
        return self._restored(name, rows, centre).to(device or "cpu", non_blocking=True).float()

    def rows(self, name: str, start: int, stop: int, view: int = 0, centre: Tensor | None = None) -> Tensor:
        """Rows ``start`` to ``stop`` in the cache's own order, less ``centre``, float32 on the CPU."""
        return self._restored(name, self._arrays[name][view, start:stop], centre).float()

    def _restored(self, name: str, rows: Tensor, centre: Tensor | None) -> Tensor:
        """``rows`` with what was taken away when they were stored, and without ``centre``; on the CPU, in float64 if needed."""
        reference = self._references.get(name)
        if reference is None:
            return rows if centre is None else rows.double().sub_(centre).float()
        return rows.double().add_(reference if centre is None else reference - centre).float()
