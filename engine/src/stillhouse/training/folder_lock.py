"""The lock of a run's folder: one process trains in it at a time, and who else wants to is told who does.

The system lets go of it when its process ends, however it ends.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.files import open_file

__all__ = ["FolderLock"]

_PATIENCE = 1.0
"""Seconds for a lock that is taken for a moment only, to look whether it can be had."""

_WORKERS_END = 15.0
"""Seconds in which the reading processes of a killed run notice that it is gone, and end as well."""


class FolderLock:
    """Held by the first of a run's processes while they write into the folder.

    Args:
        folder: the run's; made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path, self._owner = folder / ".training.lock", folder / ".training.json"
        self._lock = FileLock(self._path, thread_local=False)
        self._made = False

    def check(self) -> None:
        """Refuse a folder in which somebody trains at the moment; nothing is kept.

        Raises:
            StillhouseError: it names process and host.
        """
        if parallel.is_first() and self._path.exists():
            try:
                self._take()
            finally:
                self.release()  # taking it has made the file anew where its owner has just ended

    def acquire(self) -> None:
        """Take the lock, in every process or in none.

        Raises:
            StillhouseError: somebody else has it, named by process and host; or the folder cannot be written.
        """
        parallel.in_first(self._acquire)

    def _acquire(self) -> None:
        try:
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take()
            self._owner.write_text(json.dumps(_describe_self()) + "\n", encoding="utf-8")
        except OSError as error:
            self.release()
            raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(self.folder)) from error

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            owner = self._read_owner()
            if not self._is_gone(owner):
                raise self._refusal(owner) from None
            try:
                self._lock.acquire(timeout=_WORKERS_END)
            except Timeout:
                raise self._refusal(owner) from None
        except NotImplementedError:
            text = f"{self.folder}: this file system has no locks: see to it that no other process trains there"
            warnings.warn(text, StillhouseWarning, stacklevel=2)

    def _refusal(self, owner: dict[str, Any]) -> StillhouseError:
        who, since = "another process", ""
        if owner:
            who, since = f"process {owner.get('process')} on host {owner.get('host')}", f", since {owner.get('since')}"
        return StillhouseError(
            f"{who} is training in this folder{since}",
            where=str(self.folder),
            hint="wait until it is done, or name another folder with --out",
        )

    def _read_owner(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            with open_file(self._owner) as file:
                found = json.loads(file.read())
            return found if isinstance(found, dict) else {}
        return {}

    @staticmethod
    def _is_gone(owner: dict[str, Any]) -> bool:
        process = owner.get("process")
        if owner.get("host") != socket.gethostname() or not isinstance(process, int) or os.name == "nt":
            return False  # on Windows os.kill sends what it says
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def release(self) -> None:
        """Let go of the lock and leave nothing of it, nor of a folder that was made for it and is empty; once is enough."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):
            self._owner.unlink(missing_ok=True)
        # While it is held: who has opened the file meanwhile finds that it is gone, and tries again.
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):
                self.folder.rmdir()
        self._lock.release()


def _describe_self() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}
