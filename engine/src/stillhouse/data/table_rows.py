"""The rows of a table of samples as they are gathered; what is wrong with them is said at once, each by its row."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.annotations import Box, read_box_file, read_four
from stillhouse.data.columns import Columns
from stillhouse.data.files import FoundFile, show_name
from stillhouse.data.sources import ALIASES
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults

__all__ = ["SHOWN", "Rows"]

SHOWN = 5
"""Rows, or classes, that a message names."""

_SPLITS = {"train": "train", "val": "val", "test": "test", **ALIASES}


class Rows:
    """A table's rows whose image is there.

    Args:
        table: the table.
        image: the column of the images' files.
        split: that of the splits; "" for none, and None for ``split`` where there is one.
        meant: the texts there that mean each split; empty: the splits' names.
        root: the folder that files are below.
        skip_bad: leave out rows whose image is not there.

    Attributes:
        files: the image of each row, by the row.
        all: these rows.
        splits: the split of every row; None where no column says it.
        first_of_image: the first row of each image.
    """

    def __init__(
        self,
        table: Columns,
        image: str,
        split: str | None,
        meant: Mapping[Any, Sequence[str]],
        root: Path,
        skip_bad: bool,
    ) -> None:
        self.table, self.root = table, root
        self._faults: list[Fault] = []
        self.files: dict[int, FoundFile] = {}
        missing = []
        for row, name in enumerate(table.column(image, "data.args.image")):
            try:
                self.files[row] = self._find(name)
            except OSError:
                missing.append(row)
        if missing:
            names = [f"{table.place(row)}: {table.values[image][row] or 'no file'!r}" for row in missing[:SHOWN]]
            what = f"{len(missing)} of {len(table)} images are not there: {'; '.join(names)}"
            what += "; ..." if len(missing) > SHOWN else ""
            if not skip_bad:
                hint = f"files are below {show_name(root)} (`root` names another folder); --skip-bad leaves these out"
                raise StillhouseError(what, where="data.args.image", hint=hint)
            warnings.warn(f"left out: {what}", StillhouseWarning, stacklevel=2)
        self.all = list(self.files)
        self.splits = self._read_splits(split, meant)
        seen: dict[Any, int] = {}
        for row, found in self.files.items():
            seen.setdefault(found.identity, row)
        self.first_of_image = list(seen.values())
        for row, found in self.files.items():
            first = seen[found.identity]
            if self.splits is not None and self.splits[row] != self.splits[first]:
                self.fault(
                    row,
                    "data.args.split",
                    f"{found.path} is of {self.splits[row]} here, and of {self.splits[first]} above",
                )
        self.raise_faults()

    def _find(self, name: str) -> FoundFile:
        if not name:
            raise FileNotFoundError(name)
        found = os.stat(self.root / name)  # noqa: PTH116 - no Path object for each of a million files
        return FoundFile(name, found.st_size, (found.st_dev, found.st_ino))

    def find_file(self, row: int, column: str, key: str) -> FoundFile:
        """The file that a column names."""
        name = self.table.column(column, key)[row]
        try:
            return self._find(name)
        except OSError:
            self.fault(row, key, f"the file {name!r} is not there" if name else "names no file")
            return FoundFile("", 0, (0, 0))

    def fault(self, row: int, key: str, what: str, hint: str = "") -> None:
        """Note what is wrong with a row."""
        self._faults.append(Fault(f"{key}: {self.table.place(row)}", what, hint))

    def raise_faults(self) -> None:
        """Raise what was noted, if anything was."""
        raise_faults(self._faults)

    def _read_splits(self, named: str | None, meant: Mapping[Any, Sequence[str]]) -> list[str] | None:
        if named == "" or (named is None and "split" not in self.table.values):
            if meant:
                raise StillhouseError("needs the column", where="data.args.splits", hint='split = "fold"')
            return None
        texts = self.table.column("split" if named is None else named, "data.args.split")
        if meant:
            return _divide(texts, meant)
        splits = [_SPLITS.get(text.lower(), "") for text in texts]
        for row in self.all:
            if not splits[row]:
                self.fault(row, "data.args.split", f"must be train, val or test, got {texts[row]!r}")
        self.raise_faults()
        return splits

    def gather_weights(self, rows: Sequence[int], name: str) -> NDArray[np.float32]:
        """The weight of each row (N,), in the column ``name``."""
        weights: NDArray[np.float32] = self.gather_vectors(rows, [name], "data.args.weight")[:, 0].numpy()
        for place in np.flatnonzero(weights < 0).tolist():
            self.fault(rows[place], "data.args.weight", f"must be >= 0, got {weights[place]:g}")
        return weights

    def gather_vectors(self, rows: Sequence[int], names: Sequence[str], key: str) -> Tensor:
        """The numbers of each row (N, D), in the columns ``names``, which the recipe's ``key`` names."""
        columns = [self.table.column(name, key) for name in names]
        values = []
        for row in rows:
            try:
                values.append([float(column[row]) for column in columns])
            except ValueError:
                wrong = next(name for name, column in zip(names, columns, strict=True) if not _is_number(column[row]))
                self.fault(row, key, f"{wrong} must be a number, got {self.table.values[wrong][row]!r}")
        self.raise_faults()
        vectors = torch.tensor(values, dtype=torch.float32)
        for place in (~vectors.isfinite().all(1)).nonzero().flatten().tolist():
            self.fault(
                rows[place], key, "the target's numbers must be finite" if key.endswith("label") else "must be finite"
            )
        return vectors

    def read_box_files(self, rows: Sequence[int], name: str) -> list[list[Box]]:
        """The boxes in the file of each row, in the column ``name``; without a file there are none."""
        column = self.table.column(name, "data.args.boxes")
        of_image: dict[Any, str] = {}
        for row in self.all:
            if of_image.setdefault(self.files[row].identity, column[row]) != column[row]:
                self.fault(
                    row,
                    name,
                    f"an image has one file of boxes, and this one has {of_image[self.files[row].identity]!r} too",
                )
        return [self._read_box_file(row, column[row]) if column[row] else [] for row in rows]

    def gather_boxes(self, first: Sequence[int], corners: Sequence[str], label: str) -> list[list[Box]]:
        """The boxes of each image, a row each, in the order of ``first``.

        Args:
            first: a row of each image.
            corners: the columns of x1, y1, x2, y2; a row in which all are empty has no box.
            label: the column of the class.
        """
        columns = [self.table.column(name, "data.args.boxes") for name in corners]
        labels = self.table.column(label, "data.args.label")
        place = {self.files[row].identity: k for k, row in enumerate(first)}
        boxes: list[list[Box]] = [[] for _ in first]
        for row in self.all:
            texts = [column[row] for column in columns]
            if not any(texts):
                continue
            try:
                numbers = read_four(texts)
            except ValueError:
                self.fault(row, "data.args.boxes", f"must be four numbers, got {', '.join(map(repr, texts))}")
                continue
            if not labels[row]:
                self.fault(row, "data.args.label", "the box has no class")
                continue
            boxes[place[self.files[row].identity]].append(Box(labels[row], numbers))
        return boxes

    def _read_box_file(self, row: int, name: str) -> list[Box]:
        try:
            return read_box_file(self.root / name)
        except StillhouseError as error:
            self.fault(row, "data.args.boxes", str(error))
            return []


def _divide(texts: Sequence[str], meant: Mapping[Any, Sequence[str]]) -> list[str]:
    """The split that each text means; what is not named is of train."""
    of_text: dict[str, str] = {}
    for split, named in meant.items():
        for text in named:
            where = f"data.args.splits.{split}"
            if text not in texts:
                raise StillhouseError(f"no row has {text!r}", where=where, hint=did_you_mean(text, sorted(set(texts))))
            if of_text.setdefault(text, split) != split:
                raise StillhouseError(f"{text!r} is of {of_text[text]} as well", where=where)
    return [of_text.get(text, "train") for text in texts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
