"""Annotations in COCO's form: boxes, or a mask of each pixel's class."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.config.fields import strict_fields
from stillhouse.config.structure import structure
from stillhouse.data.annotations import Box, BoxLists, read_four
from stillhouse.data.file_source import FileSource
from stillhouse.data.files import FoundFile, show_name
from stillhouse.data.images import WHITE
from stillhouse.data.polygons import draw_mask
from stillhouse.data.sources import ALIASES
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["BACKGROUND", "Coco", "CocoSpec"]

BACKGROUND = "background"
"""The class of a mask's pixels that belong to nothing."""

_SPLIT = "{split}"
_IGNORED = 255
_SHOWN = 5


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class CocoSpec:
    """Keys of ``[data] args`` for ``coco:FILE``.

    Attributes:
        images: the folder of the images, from the recipe's folder on; ``{split}`` in it stands for the split. None: the
            annotations' own.
        target: ``boxes``, or ``mask``: the class of each pixel, 0 for the background; a crowd's pixels have no label.
    """

    images: str | None = None
    target: Literal["boxes", "mask"] = "boxes"


class Coco(FileSource):
    """Images with COCO's annotations. Ids number the images, train first, in the order of the file.

    Args:
        file: the annotations; ``{split}`` in its path stands for train, val (valid, validation) and test.
        args: the keys of :class:`CocoSpec`.
        base: the recipe's folder.
        val_fraction: share held out where there is no val split; the same for test without splits.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.

    Raises:
        StillhouseError: no such file or folder, no annotations in COCO's form, images that are not there, categories that
            differ between the splits.
    """

    def __init__(
        self, file: Path, args: Mapping[str, Any], base: Path, val_fraction: float, background: int = WHITE
    ) -> None:
        spec: CocoSpec = structure(dict(args), CocoSpec, "data.args")
        self.root, self.background, self.target = base, background, spec.target
        parts = {split: _Part(path, name) for split, (path, name) in _find_splits(file).items()}
        names = parts["train"].names
        files: list[FoundFile] = []
        faults: list[Fault] = []
        self.splits = {}
        for split, part in parts.items():
            if part.names != names:
                what = f"its categories differ from those of {show_name(parts['train'].file)}"
                faults.append(Fault(show_name(part.file), what))
            begin = len(files)
            folder = (
                part.file.parent if spec.images is None else base / Path(_fill(spec.images, part.name)).expanduser()
            )
            files += part.find_images(folder, base, faults)
            self.splits[split] = np.arange(begin, len(files), dtype=np.int64)
        raise_faults(faults)
        self._shown = [shown for part in parts.values() for shown in part.images]
        self._sizes_told = np.asarray([(image.height, image.width) for image, _ in self._shown], dtype=np.int64)
        own = [*names] if spec.target == "boxes" else [BACKGROUND, *names]
        told: dict[str, Any] = {"target": spec.target, "classes": own}
        if spec.target == "mask":
            told["ignore"] = _IGNORED if len(own) <= _IGNORED else -1
        self.spec = structure(told, TargetSpec, "data.args")
        self.class_names = tuple(own)
        self._boxes = BoxLists.of([_list_boxes(things, names) for _, things in self._shown], names)
        self.take(files)
        self.labels = np.zeros(len(files), dtype=np.int64)
        extra = self._boxes.to_bytes() if spec.target == "boxes" else json.dumps([t for _, t in self._shown]).encode()
        self.stamp = hashlib.sha256((self.stamp or b"") + extra).digest()
        self.split_up(val_fraction, whole=_SPLIT not in str(file))

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`."""
        assert self.spec is not None
        image = self.read(i)
        height, width = image.shape[-2:]
        told = tuple(self._sizes_told[i].tolist())
        if told != (height, width):
            what = f"the image is {height} x {width} pixels, and its annotations are for {told[0]} x {told[1]}"
            raise StillhouseError(what, where=self.place(i))
        if self.target == "boxes":
            return image, self.spec.read(self._boxes.take(i, height, width))
        try:
            return image, self.spec.read(self._draw(self._shown[i][1], height, width))
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def _draw(self, things: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.int32]:
        assert self.spec is not None
        ignored = np.int32(self.spec.ignore if self.spec.ignore is not None else -1)
        mask = np.zeros((height, width), dtype=np.int32)
        # What is small lies in front of what is large: a cup on a table.
        for thing in sorted(things, key=lambda thing: -float(thing.get("area") or 0)):
            try:
                inside = draw_mask(thing.get("segmentation"), height, width)
            except (TypeError, ValueError) as error:
                raise StillhouseError(
                    f"annotation {thing.get('id')}: its segmentation cannot be drawn: {error}"
                ) from None
            mask[inside] = ignored if thing.get("iscrowd") else thing["category_id"]
        return mask


@attrs.frozen
class _Shown:
    """An image as its annotations tell it: its file below the folder, and its height and width in pixels."""

    name: str
    height: int
    width: int


class _Part:
    """The annotations of one split, checked."""

    def __init__(self, file: Path, name: str) -> None:
        self.file, self.name = file, name
        try:
            told = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StillhouseError(f"cannot be read as JSON: {error}", where=show_name(file)) from None
        lists: list[Any] = [
            told.get(key) if isinstance(told, dict) else None for key in ("images", "annotations", "categories")
        ]
        if not all(isinstance(each, list) and all(isinstance(one, dict) for one in each) for each in lists):
            what = "must have the lists images, annotations and categories, as COCO's files have"
            raise StillhouseError(what, where=show_name(file))
        images, things, categories = lists
        try:
            for kind, each in (("image", images), ("category", categories)):
                twice = [key for key, count in Counter(one["id"] for one in each).items() if count > 1]
                if twice:
                    raise StillhouseError(f"the id {twice[0]!r} is that of more than one {kind}")
            known = {c["id"]: str(c["name"]) for c in sorted(categories, key=lambda c: c["id"])}
            # Each split may have ids of its own: from here on a category is its place among the names, from 1.
            places = {identity: k for k, identity in enumerate(known, 1)}
            by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
            for thing in things:
                if thing["category_id"] not in places:
                    raise StillhouseError(f"annotation {thing.get('id')}: no category {thing['category_id']!r}")
                if thing["image_id"] not in by_image:
                    raise StillhouseError(f"annotation {thing.get('id')}: no image {thing['image_id']!r}")
                by_image[thing["image_id"]].append({**thing, "category_id": places[thing["category_id"]]})
            self.images = [
                (_Shown(str(i["file_name"]), int(i["height"]), int(i["width"])), by_image[i["id"]]) for i in images
            ]
        except StillhouseError as error:
            raise error.within(show_name(file)) from None
        except (KeyError, TypeError, ValueError) as error:
            what = f"is not in COCO's form: {type(error).__name__}: {error}"
            raise StillhouseError(
                what, where=show_name(file), hint="images, annotations and categories by their ids"
            ) from None
        self.names = tuple(known.values())

    def find_images(self, folder: Path, base: Path, faults: list[Fault]) -> list[FoundFile]:
        """Find the images below ``folder``, by their paths from ``base``; those that are not there become a fault."""
        found, missing = [], []
        for image, _ in self.images:
            path = folder / image.name
            try:
                status = path.stat()
            except OSError:
                missing.append(image.name)
                continue
            below = path.relative_to(base) if path.is_relative_to(base) else path
            found.append(FoundFile(str(below), status.st_size, (status.st_dev, status.st_ino)))
        if missing:
            names = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            what = f"{len(missing)} of {len(self.images)} images are not in {show_name(folder)}: {names}"
            faults.append(Fault("data.args.images", what, "the folder that file_name starts from"))
        return found


def _find_splits(file: Path) -> dict[str, tuple[Path, str]]:
    """The file of each split, and how the split is spelled in its path."""
    if _SPLIT not in str(file):
        _need_file(file)
        return {"train": (file, "train")}
    found: dict[str, tuple[Path, str]] = {}
    for name in ("train", "val", *ALIASES, "test"):
        path = Path(_fill(str(file), name))
        if path.is_file():
            found.setdefault(ALIASES.get(name, name), (path, name))
    if "train" not in found:
        _need_file(Path(_fill(str(file), "train")))
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _need_file(file: Path) -> None:
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*.json")] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, near) if near else ""
        raise StillhouseError(f"file not found: {show_name(file)}", where="data.name", hint=hint)


def _fill(pattern: str, split: str) -> str:
    return pattern.replace(_SPLIT, split)


def _list_boxes(things: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Box]:
    """The boxes of an image, without crowds, whose box is no thing's."""
    boxes = []
    for thing in things:
        if thing.get("iscrowd"):
            continue
        try:
            x, y, width, height = read_four(thing["bbox"])
        except (KeyError, TypeError, ValueError):
            what = f"annotation {thing.get('id')}: bbox must be x, y, width, height, got {thing.get('bbox')!r:.60}"
            raise StillhouseError(what, where="data.name") from None
        boxes.append(Box(names[thing["category_id"] - 1], (x, y, x + width, y + height)))
    return boxes
