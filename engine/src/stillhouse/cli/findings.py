"""What was found in somebody's own data, as the recipe's ``[data]`` would name it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import attrs
import numpy as np
from PIL import Image

from stillhouse.cli.box_files import BoxFiles
from stillhouse.errors import StillhouseError

__all__ = [
    "LABELS",
    "LOOKED_AT",
    "MASKS",
    "SPLITS",
    "SUFFIXES",
    "Findings",
    "describe_targets",
    "is_target",
    "make_findings",
    "spread",
]

T = TypeVar("T")

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABELS = ("label", "class", "category", "target", "species", "name", "diagnosis")
"""What a column, or an entry, of classes is called."""
LOOKED_AT = 24
MASKS = 128
"""Masks that are looked at: a rare class is in few of them."""
_TARGETS = ("mask", "label", "annot", "annotation", "segmentation", "seg", "target", "depth", "gt")
_MOST_CLASSES = 64


@attrs.frozen
class Findings:
    """What was found.

    Attributes:
        name: for ``[data] name``.
        args: for ``[data] args``.
        target: ``class``, ``mask``, ``depth``, ``image``, ``boxes``, ``vector`` or ``none``.
        told: what was found, in words.
        size: height and width of the images that were looked at, in pixels, the most frequent one.
        gray: whether all of them are grey.
        classes: how many classes there are; None where only the data itself says it.
        box_files: of images with a file of boxes each: the table that is still to be written, and that ``name`` has to name.
    """

    name: str
    args: Mapping[str, Any]
    target: str
    told: str
    size: tuple[int, int]
    gray: bool
    classes: int | None = None
    box_files: BoxFiles | None = None


def make_findings(
    name: str,
    args: Mapping[str, Any],
    target: str,
    told: str,
    images: Sequence[Path | BinaryIO | Image.Image],
    classes: int | None = None,
) -> Findings:
    """Look at some of ``images``, for their size and channels; for the rest see :class:`Findings`.

    Raises:
        StillhouseError: none of them can be read.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    gray = True
    for image in spread(images, LOOKED_AT):
        try:
            with _open(image) as picture:
                sizes[picture.height, picture.width] += 1
                gray = gray and picture.mode in ("1", "L", "I", "I;16", "F")
        except OSError:
            continue  # training names it
    if not sizes:
        raise StillhouseError("none of the images that were looked at can be read", where=name)
    return Findings(name, args, target, told, sizes.most_common(1)[0][0], gray, classes)


def describe_targets(images: Iterable[Path | BinaryIO | Image.Image]) -> dict[str, Any]:
    """The kind of target images, and the classes of masks: the values that were met."""
    values: set[int] = set()
    for image in images:
        with _open(image) as picture:
            if picture.mode in ("I", "I;16", "F"):
                return {"target": "depth"}
            if picture.mode not in ("1", "L", "P"):
                return {"target": "image"}
            values |= set(np.unique(np.asarray(picture)).tolist())
        if len(values) > _MOST_CLASSES:
            return {"target": "image"}
    numbers = values - {255}
    counted = len(numbers) > 1 and max(numbers) < 2 * len(numbers)  # class by class, of which some are rare
    unlabelled = counted and 255 in values  # of 0 and 255 the second is a class
    found = [*range(max(numbers) + 1)] if counted else sorted(values)
    described: dict[str, Any] = {"target": "mask", "classes": [f"value {value}" for value in found]}
    if unlabelled:
        described["ignore"] = 255
    return described if found == list(range(len(found))) else {**described, "values": found}


def is_target(name: str) -> bool:
    """Whether a folder, a column or an extension is called as targets are: ``masks``, ``trainannot``, ``seg``."""
    plain = name.lower().rstrip("s")
    return plain in _TARGETS or plain.endswith(("mask", "annot", "label", "depth"))


def spread(items: Sequence[T], n: int) -> list[T]:
    """``n`` of the items, evenly spaced: a folder's first ones are of one class, or one scene."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), n)).astype(int).tolist()]


def _open(image: Path | BinaryIO | Image.Image) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.open(image)
