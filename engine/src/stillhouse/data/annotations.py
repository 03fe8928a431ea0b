"""Boxes of many images in flat arrays, which readers share without a copy; and the files that people draw boxes into."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import numpy as np
from numpy.typing import NDArray

from stillhouse.data.files import show_name
from stillhouse.errors import StillhouseError

__all__ = ["Box", "BoxLists", "read_box_file", "read_four"]

_SHARE = 1.1
"""What tools round, or draw over the border, is less than a tenth of the image."""
_LARGEST = 16 * 2**20
"""Bytes of a file of boxes: more is none."""


@attrs.frozen
class Box:
    """One box.

    Attributes:
        label: the class's name, or its number as text.
        corners: x1, y1, x2, y2 in pixels, or from 0 to 1 where it is relative.
        relative: whether the corners are shares of the image's width and height.
    """

    label: str
    corners: tuple[float, float, float, float]
    relative: bool = False


@attrs.frozen(eq=False)
class BoxLists:
    """The boxes of each sample.

    Attributes:
        starts: where each sample's boxes begin (N + 1,).
        corners: x1, y1, x2, y2 of all boxes (M, 4).
        labels: their class indices (M,).
        relative: whether each is in shares of its image's size (M,).
    """

    starts: NDArray[np.int64]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    relative: NDArray[np.bool_]

    @classmethod
    def of(cls, boxes: Sequence[Sequence[Box]], class_names: Sequence[str]) -> BoxLists:
        """Put the boxes of each sample together; every label is among ``class_names``."""
        index = {name: k for k, name in enumerate(class_names)}
        flat = [box for each in boxes for box in each]
        return cls(
            starts=np.cumsum([0, *map(len, boxes)]).astype(np.int64),
            corners=np.asarray([box.corners for box in flat], dtype=np.float32).reshape(-1, 4),
            labels=np.asarray([index[box.label] for box in flat], dtype=np.int64),
            relative=np.asarray([box.relative for box in flat], dtype=np.bool_),
        )

    def take(self, i: int, height: int, width: int) -> dict[str, Any]:
        """Sample ``i``'s boxes (N, 4) in pixels of its image and their labels (N,)."""
        part = slice(self.starts[i], self.starts[i + 1])
        scale = np.where(self.relative[part, None], np.asarray([width, height, width, height], dtype=np.float32), 1)
        return {"boxes": self.corners[part] * scale, "labels": self.labels[part]}

    def to_bytes(self) -> bytes:
        """All of it, for a hash."""
        return b"".join(part.tobytes() for part in (self.starts, self.corners, self.labels, self.relative))


def read_box_file(path: Path) -> list[Box]:
    """Read the boxes of one image: Pascal VOC's ``.xml``, or ``.txt`` with a line ``class x y width height`` a box.

    The numbers of a line are the box's centre and size as shares of the image's, as YOLO has them.

    Raises:
        StillhouseError: it cannot be read, or is neither.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror or error}", where=show_name(path)) from None
    if len(content) > _LARGEST:
        raise StillhouseError("is no file of boxes: it has more than 16 MiB", where=show_name(path))
    parse = {".xml": _parse_voc, ".txt": _parse_yolo}.get(path.suffix.lower())
    if parse is None:
        raise StillhouseError("a file of boxes must be .xml (Pascal VOC) or .txt (YOLO)", where=show_name(path))
    try:
        return parse(content)
    except StillhouseError as error:
        raise error.within(show_name(path)) from None


def read_four(values: Iterable[Any]) -> tuple[float, float, float, float]:
    """Read the four numbers of a box.

    Raises:
        ValueError: they are not four, or no finite numbers.
    """
    first, second, third, fourth = map(float, values)
    if not all(map(math.isfinite, (first, second, third, fourth))):
        raise ValueError("not finite")
    return first, second, third, fourth


def _parse_voc(content: bytes) -> list[Box]:
    if b"<!ENTITY" in content:  # entities that name each other fill the memory
        raise StillhouseError("must not declare entities")
    try:
        root = ElementTree.fromstring(content)  # noqa: S314 - entities, which are the danger, are refused above
    except ElementTree.ParseError as error:
        raise StillhouseError(f"is not valid XML: {error}") from None
    boxes = []
    for number, thing in enumerate(root.iter("object"), 1):
        label = (thing.findtext("name") or "").strip()
        try:
            numbers = read_four(thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            label = ""
        if not label:
            raise StillhouseError(f"object {number} must have a name and a bndbox of xmin, ymin, xmax, ymax")
        # Pascal VOC counts pixels from 1, and its box ends with its last pixel.
        boxes.append(Box(label, (numbers[0] - 1, numbers[1] - 1, numbers[2], numbers[3])))
    return boxes


def _parse_yolo(content: bytes) -> list[Box]:
    boxes = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        label, *rest = line.split()
        try:
            x, y, width, height = read_four(rest)
        except ValueError:
            raise StillhouseError(
                f"line {number}: must be class, x, y, width, height, got {line.strip()!r:.60}"
            ) from None
        if max(x, y, width, height) > _SHARE or min(x, y, width, height) < 1 - _SHARE:
            raise StillhouseError(
                f"line {number}: x, y, width and height must be shares of the image's, 0 to 1, got {line.strip()!r:.60}"
            )
        boxes.append(Box(label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), relative=True))
    return boxes
