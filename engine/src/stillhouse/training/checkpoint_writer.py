"""The thread that writes checkpoints: the training goes on meanwhile, and is told of a failure when it comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from stillhouse.errors import StillhouseError
from stillhouse.models.checkpoint_file import read_checkpoint, write_checkpoint
from stillhouse.models.weights import find_last_checkpoint
from stillhouse.nested import list_tensors

__all__ = ["CheckpointWriter", "File", "explain_failure", "find_whole"]

SMALL = 1 << 24
"""Bytes that are written before anybody would notice."""


@attrs.frozen(eq=False)
class File:
    """A checkpoint to be written.

    Attributes:
        name: its name in the folder.
        content: what is in it; nobody may change it any more.
        outdated: the file that goes once this one is there; None: none does.
    """

    name: str
    content: Mapping[str, Any]
    outdated: str | None = None


class CheckpointWriter:
    """Writes the files of one folder in order, for the process that writes; whoever has others beside it tells them.

    Small ones are waited for: a kill that comes right after loses nothing, and whoever could not write is told where it was.
    So are the first ones of all, which are read back as well: what can be read once can be read again.

    Args:
        folder: is made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._tried = False

    def write(self, files: Sequence[File]) -> None:
        """Begin to write ``files``, one after the other, once those before are there.

        Raises:
            OSError, StillhouseError: as :meth:`wait`, of those before, and of these where they are waited for.
        """
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="stillhouse checkpoints")
        self._pending = self._thread.submit(self._write, files)
        tensors = [tensor for file in files for tensor in list_tensors(file.content)]
        if not self._tried or sum(tensor.nbytes for tensor in tensors) < SMALL:
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: a file cannot be written; the one before it stays.
            StillhouseError: the first file cannot be read back.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait as :meth:`wait` does, and end the thread however that ends."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _write(self, files: Sequence[File]) -> None:
        for file in files:
            path = self._folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, file.content)
            if not self._tried:
                self._read_back(path)
            if file.outdated not in (None, file.name):
                (self._folder / str(file.outdated)).unlink(missing_ok=True)

    def _read_back(self, path: Path) -> None:
        try:
            read_checkpoint(path, "the file system has not kept what was written", own=True)
        except StillhouseError:
            path.unlink(missing_ok=True)
            raise
        self._tried = True


def find_whole(folder: Path) -> Path | None:
    """The checkpoint that a run can go on from: the last, or where that was deleted the newest of those that were to stay."""
    return find_last_checkpoint(folder) or find_last_checkpoint(folder, "epoch")


def explain_failure(folder: Path, error: OSError) -> StillhouseError:
    """Make the error for a checkpoint that cannot be written into ``folder``: it says what is left to go on from."""
    why = error.strerror or error
    if not folder.parent.exists():
        hint = "it goes on from where it has been moved to: --resume"
        return StillhouseError(f"the run's folder is gone: {why}", where=str(folder.parent), hint=hint)
    last = find_whole(folder)
    kept = "there is none yet: the run begins anew" if last is None else f"{last.name} is still there"
    hint = f"{kept}; make room and use --resume"
    return StillhouseError(f"the checkpoint cannot be written: {why}", where=str(folder), hint=hint)
