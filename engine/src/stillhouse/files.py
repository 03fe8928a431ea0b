"""Files that are there whole or not at all, and JSON of any content read with a message instead of a traceback."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any

from stillhouse.errors import StillhouseError

__all__ = [
    "append_lines",
    "clear_temporaries",
    "open_file",
    "read_table",
    "replace_nonfinite",
    "replacing",
    "sync_folder",
    "to_json",
    "write_json",
    "write_text",
]

TEMPORARY = ".tmp-"
"""How a file's name begins while it is written, or tried whether one can be."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; the file is put in its place when the block ends well, else removed.

    The name is another one in every call: two processes, on two machines too, do not write into one file.

    Raises:
        OSError: the file cannot be put in place, or its content not be forced onto the disk.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written in ``folder``; nobody else may write there meanwhile."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            left.rmdir() if left.is_dir() else left.unlink(missing_ok=True)


def open_file(path: Path) -> IO[bytes]:
    """Open a file to be read; a pipe would be waited for, and a device may have no end.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISDIR(mode := os.fstat(handle).st_mode) and not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, and no file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        with suppress(OSError):  # fdopen closes what it refuses: a folder
            os.close(handle)
        raise


def sync_folder(folder: Path) -> None:
    """Force a folder's entries onto the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StillhouseError: it cannot be written; what was there before still is.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON, indented, whole or not at all, what is not finite as null; raises as :func:`write_text`."""
    write_text(path, to_json(data) + "\n")


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines to a file and force them onto the disk; of one that cannot be written the beginning stays as it was.

    Raises:
        OSError: they cannot be written.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, before)
        raise


def replace_nonfinite(value: Any) -> Any:
    """Plain data with None in the place of each number that is not finite, and numbers of other libraries as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(inner) for inner in value]
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    return value


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON of plain data; what is not finite is null."""
    return json.dumps(replace_nonfinite(value), indent=indent, allow_nan=False)


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds a table.

    Args:
        path: the file.
        what: what it should be, for the message: ``a run's lock``.

    Raises:
        StillhouseError: it is missing, cannot be read, is no JSON, or holds something else.
    """
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8")
        # NaN and infinities, which older versions wrote, are null as well.
        found = json.loads(text, parse_constant=lambda _name: None)
    except FileNotFoundError:
        raise StillhouseError("file not found", where=str(path)) from None
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of too many digits
        what_is_wrong = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise StillhouseError(f"is damaged, and no JSON: {what_is_wrong}", where=str(path)) from None
    if not isinstance(found, dict):
        raise StillhouseError(f"is not {what}: it must hold a table, got {type(found).__name__}", where=str(path))
    return found
