"""A table of samples: a row for each image, or for each box, and columns that say where it is and what."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from torch import Tensor

from stillhouse.config.fields import strict_fields
from stillhouse.config.structure import structure
from stillhouse.data.annotations import Box, BoxLists
from stillhouse.data.columns import read_columns
from stillhouse.data.file_source import FileSource
from stillhouse.data.files import FoundFile, show_name
from stillhouse.data.images import WHITE
from stillhouse.data.table_rows import SHOWN, Rows
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults

__all__ = ["Table", "TableSpec"]

_CORNERS = ("x1", "y1", "x2", "y2")


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class TableSpec:
    """Description of a table's columns; its attributes are keys of ``[data] args``, beside those of its targets.

    Attributes:
        image: the column of the images' files.
        label: the column of the class, by name or number; of masks, depths and paired images that of their files; of
            vectors, regression or one column of 0 and 1 a class, a list of columns; of boxes that of each one's class.
        split: the column of the split: train, val (valid, validation) or test; "" for none. Where there is no column
            ``split``, and none is named, all rows are one set.
        boxes: of boxes: four columns, x1, y1, x2, y2 in pixels, with a row for each box and empty ones for an image
            without; or one column of files, ``.xml`` of Pascal VOC or ``.txt`` of YOLO.
        splits: where that column has other texts, those of each split: ``{ val = ["fold 4"], test = ["fold 5"] }``; what is
            not named is of train.
        weight: the column of the samples' factors in the task's loss, numbers >= 0; "" for none.
        root: the folder that files are below; the table's own by default.
    """

    image: str = "image"
    label: str | tuple[str, ...] = "label"
    split: str | None = None
    boxes: str | tuple[str, ...] = _CORNERS
    splits: dict[Literal["train", "val", "test"], tuple[str, ...]] = attrs.field(factory=dict)
    weight: str = ""
    root: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of ``label``."""
        return (self.label,) if isinstance(self.label, str) else self.label

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.boxes, str) and len(self.boxes) != 4:
            raise StillhouseError(f"must be four columns or one, got {list(self.boxes)}", where="boxes")


class Table(FileSource):
    """Images that a table lists. Ids number them in the order of their rows.

    Args:
        file: the table: ``.csv``, ``.tsv`` or ``.parquet``.
        args: the keys of :class:`TableSpec` and of :class:`stillhouse.data.targets.TargetSpec`.
        val_fraction: share held out, of each class, where no row is of val; the same for test without splits.
        skip_bad: leave out rows whose file is not there.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.

    Raises:
        StillhouseError: no such file or column, rows without a file, a label or a known split; each by its row.
    """

    def __init__(
        self, file: Path, args: Mapping[str, Any], val_fraction: float, skip_bad: bool, background: int = WHITE
    ) -> None:
        own, others = ([field.name for field in attrs.fields(kind)] for kind in (TableSpec, TargetSpec))
        raise_faults(
            Fault(f"data.args.{key}", f"unknown key {key!r}", did_you_mean(key, [*own, *others]))
            for key in args
            if key not in (*own, *others)
        )
        columns: TableSpec = structure({k: v for k, v in args.items() if k in own}, TableSpec, "data.args")
        told = {"target": "class", **{k: v for k, v in args.items() if k not in own}}
        table = read_columns(file, "data.name")
        self.root, self.background = file.parent / Path(columns.root).expanduser(), background
        self.target = _check_kind(told, columns)
        self._boxes: BoxLists | None = None
        self._vectors: Tensor | None = None
        rows = Rows(table, columns.image, columns.split, columns.splits, self.root, skip_bad)
        first = rows.first_of_image if self.target == "boxes" else rows.all
        targets: list[FoundFile] = []
        extra = b""
        if self.target == "class":
            self.class_names, labels = _number(rows, columns.labels[0], told.get("classes"))
            self.spec = None if "classes" not in told else structure(told, TargetSpec, "data.args")
        else:
            labels = np.zeros(len(table), dtype=np.int64)
        if self.target == "boxes":
            boxes = _gather_boxes(rows, first, columns)
            names = _list_classes([box.label for each in boxes for box in each], told.get("classes"), rows, None)
            told["classes"] = list(names)
            self._boxes = BoxLists.of(boxes, names)
            extra = self._boxes.to_bytes()
        if self.target == "vector":
            self._vectors = rows.gather_vectors(first, columns.labels, "data.args.label")
            extra = self._vectors.numpy().tobytes()
        if self.target in ("mask", "depth", "image"):
            targets = [rows.find_file(row, columns.labels[0], "data.args.label") for row in first]
        if columns.weight:
            self.weights = rows.gather_weights(first, columns.weight)
        rows.raise_faults()
        if self.target == "boxes" and not told["classes"]:
            raise StillhouseError(
                f"none of {len(table)} rows has a box",
                where="data.args.boxes",
                hint="`boxes` names the four columns of corners, or that of files",
            )
        if self.target != "class":
            self.spec = structure(told, TargetSpec, "data.args")
            self.class_names = self.spec.class_names
        self.splits = {}
        whole = rows.splits is None
        repeated = len(first) - len({rows.files[row].identity for row in first})
        if whole and repeated and val_fraction:
            what = f"{repeated} rows are of images that stand above already, and may be of training and validation both"
            warnings.warn(
                f"{show_name(file)}: {what}; a column named by `split` says which", StillhouseWarning, stacklevel=2
            )
        for split in ("train", "val", "test"):
            ids = [k for k, row in enumerate(first) if rows.splits is None or rows.splits[row] == split]
            if ids and not (whole and split != "train"):
                self.splits[split] = np.asarray(ids, dtype=np.int64)
        if "train" not in self.splits:
            raise StillhouseError(f"{show_name(file)} has no row of the split train", where="data.args.split")
        self.take([rows.files[row] for row in first], targets)
        self.labels = labels[np.asarray(first, dtype=np.int64)]
        self.stamp = hashlib.sha256((self.stamp or b"") + extra).digest()
        self.split_up(val_fraction, whole)
        self.look_at_targets()

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`."""
        if self._vectors is not None:
            return self.read(i), self._vectors[i].clone()
        if self._boxes is not None and self.spec is not None:
            image = self.read(i)
            return image, self.spec.read(self._boxes.take(i, image.shape[-2], image.shape[-1]))
        return super().pair(i)


def _check_kind(told: Mapping[str, Any], columns: TableSpec) -> Any:
    kind = told["target"]
    known = ("class", "vector", "mask", "depth", "image", "boxes", "none")
    if kind not in known:
        raise StillhouseError(f"must be {', '.join(known[:-1])} or none, got {kind!r}", where="data.args.target")
    if not isinstance(columns.label, str) and kind != "vector":
        hint = 'target = "vector" takes several columns'
        raise StillhouseError(f"must be one column, got {list(columns.label)}", where="data.args.label", hint=hint)
    return kind


def _gather_boxes(rows: Rows, first: Sequence[int], columns: TableSpec) -> list[list[Box]]:
    if isinstance(columns.boxes, str):
        return rows.read_box_files(first, columns.boxes)
    return rows.gather_boxes(first, columns.boxes, columns.labels[0])


def _number(rows: Rows, label: str, told: Any) -> tuple[tuple[str, ...], Any]:
    """Number the classes of a column: their names, and each row's class index (N,)."""
    texts = rows.table.column(label, "data.args.label")
    names = _list_classes([texts[row] for row in rows.all], told, rows, rows.all)
    index = {name: k for k, name in enumerate(names)}
    said: dict[Any, str] = {}
    for row in rows.all:
        found = rows.files[row]
        if said.setdefault(found.identity, texts[row]) != texts[row]:
            what = f"{found.path} is {texts[row]!r} here, and {said[found.identity]!r} above"
            rows.fault(
                row, "data.args.label", what, 'one column of 0 and 1 a class, and target = "vector", for several'
            )
    return names, np.asarray([index.get(text, 0) for text in texts], dtype=np.int64)


def _list_classes(texts: Sequence[str], told: Any, rows: Rows, of: Sequence[int] | None) -> tuple[str, ...]:
    """List the classes: as told, or those that occur, by number where all are numbers and else by name."""
    if told is not None and not isinstance(told, int):
        known = tuple(map(str, told))
    elif isinstance(told, int):
        known = tuple(map(str, range(told)))
    else:
        order: Callable[[str], Any] = (lambda text: int(text)) if all(map(_is_whole, texts)) else str
        known = tuple(sorted({text for text in texts if text}, key=order))
    index = set(known)
    for k, text in enumerate(texts):
        if text in index:
            continue
        shown = ", ".join(known[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
        what = f"must be one of the classes, {shown}, got {text!r}" if text else "the row has no class"
        if of is None:
            raise StillhouseError(f"a box's class {what}", where="data.args.classes")
        rows.fault(of[k], "data.args.label", what)
    rows.raise_faults()
    return known


def _is_whole(text: str) -> bool:
    return text.isdecimal() and str(int(text)) == text
