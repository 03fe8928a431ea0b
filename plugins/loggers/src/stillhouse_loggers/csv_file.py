"""A run's numbers as a file of comma-separated values: a line for each, as step, tag, value."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from stillhouse import Run
from stillhouse.files import write_text
from stillhouse.training.points import Point

__all__ = ["CsvFile"]

_HEADER = ("step", "tag", "value")

Row = tuple[int | str, str, float | str]


@attrs.define
class CsvFile:
    """Writes ``metrics.csv`` in the run's folder. A run that goes on keeps the lines up to where it does, and has none twice."""

    _path: Path = attrs.field(init=False)
    _done: int = attrs.field(init=False, default=0)
    _there: frozenset[str] = attrs.field(init=False, default=frozenset())

    def open(self, run: Run) -> None:
        """Begin the file, or leave out what a killed run has written of steps yet to come."""
        assert run.folder is not None  # a run without one has no loggers
        self._path, self._done = run.folder / "metrics.csv", run.trainer.state.iteration
        kept = [row for row in _read(self._path) if int(row[0]) <= self._done]
        # What was measured at that very step may be measured once more: a run killed before its last word.
        self._there = frozenset(tag for step, tag, _ in kept if int(step) == self._done)
        write_text(self._path, _format([_HEADER, *kept]))

    def write(self, points: Sequence[Point]) -> None:
        """Append the points' lines."""
        rows: list[Row] = [
            (point.step, tag, value)
            for point in points
            for tag, value in point.scalars.items()
            if point.step > self._done or tag not in self._there
        ]
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_format(rows))

    def close(self, *, completed: bool) -> None:
        """Nothing: no file is held."""


def _format(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path) -> list[tuple[str, str, str]]:
    """The whole lines of a file: the last one may be half a line, where a disk was full."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == len(_HEADER) and row[0].isdecimal()]
