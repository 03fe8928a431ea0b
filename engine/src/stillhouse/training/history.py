"""The history of a run in a file of its own, a line an epoch, so that a checkpoint costs the same after any number of epochs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.files import append_lines, open_file, write_text
from stillhouse.training.evaluation import Evaluation
from stillhouse.training.folder import HISTORY

__all__ = ["HistoryFile"]


class HistoryFile:
    """The validation metrics of each epoch, on the disk before the checkpoint that has seen them.

    A checkpoint says how many epochs it has seen and what they hash to; lines of epochs that were lost with a killed process
    are cut off when the run goes on.

    Args:
        folder: the run's.
        evaluation: whose history it is.
    """

    def __init__(self, folder: Path, evaluation: Evaluation) -> None:
        self.path = folder / HISTORY
        self._evaluation = evaluation
        self._seen = 0
        self._digest = hashlib.sha256()
        self._unwritten: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's ``history``; :meth:`write` has to come before the checkpoint is written."""
        lines = [_to_line(metrics) for metrics in self._evaluation.history[self._seen :]]
        self._take_in(lines)
        self._unwritten += lines
        return {"epochs": self._seen, "sha256": self._digest.hexdigest()}

    def write(self) -> None:
        """Write the epochs that a state has seen and that are not written yet, in the process that writes.

        Raises:
            OSError: they cannot be written.
        """
        if self._unwritten:
            append_lines(self.path, self._unwritten)
            self._unwritten = []

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the epochs that a checkpoint has seen.

        Raises:
            StillhouseError: the file lacks some of them, or they have changed.
        """
        count = int(state["epochs"])
        lines = self._read_lines()
        if len(lines) < count:
            raise self._fault(f"has {len(lines)} epochs, and the checkpoint has seen {count}")
        self._take_in(lines[:count])
        if self._digest.hexdigest() != state["sha256"]:
            raise self._fault("has changed since it was written: its checksum differs")
        self._evaluation.history = [_from_line(line) for line in lines[:count]]
        parallel.barrier()  # every process has read it
        if self.path.exists():
            parallel.in_first(lambda: write_text(self.path, "".join(f"{line}\n" for line in lines[:count])))

    def clear(self) -> None:
        """Begin anew: no checkpoint has seen what is there."""
        parallel.in_first(lambda: self.path.unlink(missing_ok=True))

    def _take_in(self, lines: Sequence[str]) -> None:
        self._seen += len(lines)
        for line in lines:
            self._digest.update(line.encode() + b"\n")

    def _read_lines(self) -> list[str]:
        try:
            with open_file(self.path) as file:
                text = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror or error}") from None
        # What follows the last end of a line is a line that a killed process was writing.
        return text.decode("utf-8", "replace").split("\n")[:-1]

    def _fault(self, what: str) -> StillhouseError:
        return StillhouseError(
            what,
            where=str(self.path),
            hint="the best epoch and early stopping go by it: put it back as it was, or start another run with --out",
        )


def _to_line(metrics: Mapping[str, float]) -> str:
    """What is not finite is no number of JSON, and no score: null."""
    return json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()})


def _from_line(line: str) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in json.loads(line).items()}
