"""Files below a folder: one rule for every source of files, and a hash of their content.

Hidden files and folders are left out, links are followed, a link to a folder that holds it is left out, and what is
neither file nor folder is never opened. What a source leaves out is counted, so that it can be said.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from stillhouse.errors import StillhouseError, StillhouseWarning

__all__ = ["FoundFile", "Walk", "hash_contents", "hash_listing", "show_name"]

_WHOLE = 1 << 30
_MOST = 1 << 16
"""Bytes, and files, up to which all of them are hashed whole: what a disk reads in seconds."""
_SAMPLED = 1024
"""Files that are hashed of a larger set, evenly spaced."""
_PART = 1 << 19
"""Bytes at the beginning, and as many at the end, that are hashed of each of these."""
_SHOWN = 3

Inode = tuple[int, int]


@attrs.frozen
class FoundFile:
    """A file that a walk has met.

    Attributes:
        path: below the walk's root, with ``/``.
        size: in bytes; 0 for an empty file, and for a link that leads nowhere.
        inode: device and number; two paths to one file have the same.
    """

    path: str
    size: int
    inode: Inode

    @property
    def identity(self) -> Any:
        """The same of two paths to one file; the path where the file system numbers none."""
        return self.inode if self.inode[1] else self.path

    @property
    def suffix(self) -> str:
        """The name's suffix in lower case, with its dot."""
        return os.path.splitext(self.path)[1].lower()  # noqa: PTH122 - no Path object for each of a million files


class Walk:
    """A walk over the files below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._left_out: dict[str, dict[str, None]] = {}
        self._others: Counter[str] = Counter()

    def list_folders(self, top: Path) -> list[Path]:
        """List the folders in ``top``, by name.

        Raises:
            StillhouseError: it cannot be read.
        """
        return self._scan(top, _find_above(top))[0]

    def list_own(self, top: Path) -> list[FoundFile]:
        """List the files in ``top`` itself, by name.

        Raises:
            StillhouseError: it cannot be read.
        """
        return self._scan(top, _find_above(top))[1]

    def list_files(
        self, top: Path, suffixes: Collection[str] | None = None, *, most: int | None = None
    ) -> list[FoundFile]:
        """List the files at any depth below ``top``, by path.

        Args:
            top: the root, or a folder below it.
            suffixes: in lower case, of the files to list; those of others are counted. None: all.
            most: more files than that, of any kind, are refused: it is somebody's whole disk. None: any number.

        Raises:
            StillhouseError: a folder cannot be read, or there are too many files.
        """
        found: list[FoundFile] = []
        pending = [(top, _find_above(top))]
        while pending:
            here, above = pending.pop()
            folders, files = self._scan(here, above)
            for folder in folders:
                stat = folder.stat()
                pending.append((folder, above | {(stat.st_dev, stat.st_ino)}))
            found += files
            if most is not None and len(found) > most:
                what = f"this folder holds more than {most:,} files"
                raise StillhouseError(what, where=show_name(top), hint="the folder of the images alone")
        if suffixes is not None:
            self.count_others(f for f in found if f.suffix not in suffixes)
            found = [f for f in found if f.suffix in suffixes]
        return sorted(found, key=lambda f: f.path)

    def _scan(self, here: Path, above: frozenset[Inode]) -> tuple[list[Path], list[FoundFile]]:
        folders: list[Path] = []
        files: list[FoundFile] = []
        below = "" if here == self.root else f"{here.relative_to(self.root).as_posix()}/"
        try:
            with os.scandir(here) as entries:
                listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise StillhouseError(f"this folder cannot be read: {error.strerror}", where=show_name(here)) from None
        for entry in listed:
            path = below + entry.name
            try:
                stat = entry.stat()
            except OSError:  # a link that leads nowhere, or in a circle; who reads it says so
                files.append(FoundFile(path, 0, (0, 0)))
                continue
            if entry.is_dir():
                if (stat.st_dev, stat.st_ino) in above:
                    self.leave_out("links to a folder that holds them", path)
                else:
                    folders.append(here / entry.name)
            elif entry.is_file():
                files.append(FoundFile(path, stat.st_size, (stat.st_dev, stat.st_ino)))
            else:  # a pipe would be waited for
                self.leave_out("neither file nor folder", path)
        return folders, files

    def leave_out(self, reason: str, *paths: str) -> None:
        """Note ``paths`` below the root that are left out for a reason; one that is noted twice counts once."""
        self._left_out.setdefault(reason, {}).update(dict.fromkeys(paths))

    def count_others(self, files: Iterable[FoundFile]) -> None:
        """Count files that are left out by their suffix."""
        self._others.update(file.suffix or "no suffix" for file in files)

    def warn(self, used: Sequence[FoundFile], read: str) -> None:
        """Warn of what was left out, and of files that are there twice; each kind once.

        Args:
            used: the files that the source takes samples from.
            read: what it reads, in words.
        """
        said = []
        if self._others:
            kinds = ", ".join(
                f"{n} {suffix}" for suffix, n in sorted(self._others.items(), key=lambda i: (-i[1], i[0]))
            )
            said.append(f"left out by their suffix: {kinds} ({read})")
        said += [f"left out, {reason}: {_join_some(list(paths))}" for reason, paths in self._left_out.items()]
        first: dict[Inode, str] = {}
        twice = [
            f"{show_name(f.path)} is {show_name(first[f.inode])}"
            for f in used
            if f.inode[1] and first.setdefault(f.inode, f.path) != f.path
        ]
        if twice:
            said.append(f"{len(twice)} files are there more than once, by links: {_join_some(twice)}")
        for text in said:
            warnings.warn(f"{show_name(self.root)}: {text}", StillhouseWarning, stacklevel=2)


def _find_above(top: Path) -> frozenset[Inode]:
    """Find the folders that hold ``top``, and itself, as it is named and as it lies."""
    whole = top.absolute()
    found = set()
    for folder in {whole, *whole.parents, *whole.resolve().parents}:
        stat = folder.stat()
        found.add((stat.st_dev, stat.st_ino))
    return frozenset(found)


def _join_some(names: Sequence[str]) -> str:
    shown = ", ".join(map(show_name, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def show_name(path: str | os.PathLike[str]) -> str:
    r"""Return a path as one line that every terminal and file can take: bytes that are not UTF-8 become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", r"\n")


def hash_listing(files: Iterable[FoundFile]) -> bytes:
    """Hash the paths and sizes of ``files``, in order; times, and the place of their root, do not count."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(f"{file.path}\0{file.size}\n"))
    return digest.digest()


def hash_contents(root: Path, paths: Sequence[str], sizes: Sequence[int]) -> bytes:
    """Hash the contents of files below ``root``, in order.

    Of more than 1 GiB or 65,536 files, 1,024 of them, evenly spaced, are hashed by their first and last half MiB.

    Args:
        root: the folder.
        paths: the files below it.
        sizes: theirs, in bytes.
    """
    digest = hashlib.sha256()
    whole = sum(sizes) <= _WHOLE and len(paths) <= _MOST
    some = range(len(paths)) if whole else np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).astype(int)
    for k in some:
        digest.update(_hash_file(root / paths[k], whole))
    return digest.digest()


def _hash_file(path: Path, whole: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").digest()
            content = file.read(_PART)
            file.seek(max(_PART, os.fstat(file.fileno()).st_size - _PART))
            return hashlib.sha256(content + file.read(_PART)).digest()
    except OSError:
        return b"unreadable"  # who reads it says so
