"""Images with a file of boxes each, as drawing tools leave them: the rows of a table that brings the two together."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import attrs

from stillhouse.errors import StillhouseError

__all__ = ["BoxFiles", "find_box_files"]

_SUFFIXES = (".xml", ".txt")
_LOOKED_AT = 8
"""Files that are read, to tell boxes from captions."""


@attrs.frozen
class BoxFiles:
    """Images and their files of boxes.

    Attributes:
        rows: of each image its path, that of its boxes or nothing, and its split or nothing.
        suffix: of the files of boxes.
    """

    rows: tuple[tuple[str, str, str], ...]
    suffix: str

    @property
    def has_splits(self) -> bool:
        """Whether every image lies in a folder that is called as a split is."""
        return all(split for _, _, split in self.rows)

    def write_table(self) -> str:
        """The table as CSV: columns ``image``, ``boxes`` and, where there are splits, ``split``."""
        columns = ("image", "boxes", "split") if self.has_splits else ("image", "boxes")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *(row[: len(columns)] for row in self.rows)])
        return text.getvalue()


def find_box_files(
    root: Path, images: Sequence[Path], others: Sequence[Path], splits: dict[str, str]
) -> BoxFiles | None:
    """Find the file of boxes of each image: Pascal VOC's or YOLO's, of the image's own name and split.

    Args:
        root: the folder that paths are told from.
        images: in it.
        others: the other files in it.
        splits: by the name of a folder, the split that it stands for.

    Returns:
        None where fewer than half of the images have one, or what they have are no boxes.
    """
    from stillhouse.data.annotations import read_box_file

    for suffix in _SUFFIXES:
        of = {(_find_split(file, root, splits), file.stem): file for file in others if file.suffix.lower() == suffix}
        found = [
            (image, split, of.get((split, image.stem)))
            for image in images
            for split in [_find_split(image, root, splits)]
        ]
        some = [boxes for _, _, boxes in found if boxes is not None]
        if 2 * len(some) < len(images):
            continue
        try:
            for file in some[:_LOOKED_AT]:
                read_box_file(file)
        except StillhouseError:
            continue
        rows = tuple(
            (image.relative_to(root).as_posix(), "" if boxes is None else boxes.relative_to(root).as_posix(), split)
            for image, split, boxes in found
        )
        return BoxFiles(rows, suffix)
    return None


def _find_split(file: Path, root: Path, splits: dict[str, str]) -> str:
    return next((splits[part.lower()] for part in file.relative_to(root).parts[:-1] if part.lower() in splits), "")
