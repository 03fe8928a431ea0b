"""Where what was trained or computed once is kept, and how it is made: by one of those that want it, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError

__all__ = ["cache_folder", "get_or_make", "naming_disk_errors"]

T = TypeVar("T")


def cache_folder() -> Path:
    """Where trained teachers are kept: ``$STILLHOUSE_CACHE``, else ``stillhouse`` in the user's cache folder."""
    own = os.environ.get("STILLHOUSE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillhouse"


def get_or_make(path: Path, find: Callable[[], T | None], make: Callable[[], T], *, together: bool = False) -> T:
    """Give what ``find`` finds, or else what ``make`` makes at ``path``; who wants the same meanwhile waits and finds it.

    Args:
        path: file or folder. Its lock lies beside it: ``.NAME.lock``.
        find: called under the lock; None: it is not there, or not whole.
        make: called under the lock where nothing was found.
        together: the processes of one run make it together, and the first of them holds the lock for all; else each
            process takes the lock in turn, so that one makes it and the others find it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    locks = parallel.is_first() or not together
    with FileLock(path.with_name(f".{path.name}.lock")) if locks else nullcontext():
        found = find()
        made = make() if found is None else found
        if together:
            parallel.barrier()
    return made


@contextmanager
def naming_disk_errors(path: Path, what: str, left: str) -> Iterator[None]:
    """Turn the system's errors into a fault of the cache at ``path``.

    Args:
        path: the file or folder.
        what: what it is.
        left: what is left of it after such an error.

    Raises:
        StillhouseError: for an OSError on the way.
    """
    try:
        yield
    except OSError as error:
        raise StillhouseError(
            f"{what} cannot be kept: {error}",
            where=str(path),
            hint=f"make room, or set STILLHOUSE_CACHE to a folder that can be written; {left}",
        ) from error
