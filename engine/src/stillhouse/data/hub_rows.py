"""What the rows of a Hugging Face data set say of themselves: which column is the image, which the class, and its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.data.fields import Fields
from stillhouse.data.sampler import Ids
from stillhouse.errors import StillhouseError

__all__ = ["find_names", "guess_fields", "has_rows", "is_unchanging", "list_classes", "list_columns", "load_rows"]

_WHERE = "data.name"


def has_rows(dataset: Any) -> bool:
    """Whether it is a data set of the library ``datasets``, which is not imported to find out."""
    return type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "features")


def is_unchanging(dataset: Any) -> bool:
    """Whether a row is the same at each reading: nobody has set a transform."""
    return bool(dataset.format["type"] != "custom")


def guess_fields(dataset: Any) -> Fields | None:
    """Take the only image as the input, and the only class as the target; None where there is none, or are several."""
    if not has_rows(dataset):
        return None
    images, classes = (list_columns(dataset, kind) for kind in ("Image", "ClassLabel"))
    if len(images) != 1 or len(classes) > 1:
        return None
    return Fields(dict(zip(("input", "target"), images + classes, strict=False)))


def list_columns(dataset: Any, kind: str) -> list[str]:
    """List the columns whose feature is of a class of this name, such as ``Image``."""
    return [name for name, feature in dataset.features.items() if type(feature).__name__ == kind]


def find_names(dataset: Any, fields: Fields | None) -> tuple[str, ...]:
    """Find the names of the target's classes; empty where it is no class."""
    if fields is None or not has_rows(dataset):
        return ()
    return tuple(getattr(dataset.features.get(fields.keys.get("target")), "names", None) or ())


def list_classes(dataset: Any, fields: Fields | None) -> Ids | None:
    """List the class of every row, out of its column alone: no image is decoded; None where the target is no class."""
    if not find_names(dataset, fields):
        return None
    assert fields is not None  # or there were no names
    column = fields.keys["target"]
    found: Ids = np.asarray(dataset.with_format("numpy", columns=[column])[column][:])
    return found.astype(np.int64) if found.ndim == 1 and found.dtype.kind in "iu" else None


def load_rows(folder: Path) -> Any:
    """Load what ``save_to_disk`` wrote; nothing is downloaded.

    Raises:
        StillhouseError: the library is not there, or the folder is none of its.
    """
    try:
        import datasets
    except ImportError:
        hint = 'pip install "stillhouse[datasets]"'
        raise StillhouseError("hf: needs the library datasets", where=_WHERE, hint=hint) from None
    if not folder.is_dir():
        hint = "hf:PATH is a folder that save_to_disk wrote; nothing is downloaded"
        raise StillhouseError(f"folder not found: {folder}", where=_WHERE, hint=hint)
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:
        what = f"{folder} cannot be read: {type(error).__name__}: {error}"
        raise StillhouseError(what, where=_WHERE, hint="hf:PATH is a folder that save_to_disk wrote") from error
