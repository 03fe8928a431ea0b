"""What a folder of somebody's own holds, as the recipe's ``[data]`` would name it: a look at names and a few files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from PIL import Image

from stillhouse.cli.box_files import BoxFiles, find_box_files
from stillhouse.errors import StillhouseError

__all__ = ["Findings", "look_at"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
_TABLES = (".csv", ".tsv", ".parquet")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_TARGETS = (
    "mask",
    "masks",
    "label",
    "labels",
    "annot",
    "annotations",
    "segmentation",
    "target",
    "targets",
    "depth",
    "gt",
)
_LABELS = ("label", "class", "category", "target", "species", "name", "diagnosis")
_LOOKED_AT = 24
_MASKS = 128
"""Masks that are looked at: a rare class is in few of them."""
_MOST_CLASSES = 64
_MOST = 200_000
"""Files that are listed: in a home folder there is no end of them."""


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


def look_at(place: Path) -> Findings:
    """Look at a folder of images, with or without masks, boxes or a table; or at a table, or COCO's annotations.

    Raises:
        StillhouseError: there is nothing of the kind.
    """
    if place.is_file():
        files = [place]
        root = place.parent
    elif place.is_dir():
        root = place
        files = _list_files(place)
    else:
        raise StillhouseError("no such file or folder", where=str(place))
    images = [file for file in files if file.suffix.lower() in _SUFFIXES]
    for file in files:
        near = len(file.relative_to(root).parts) <= 2
        if near and file.suffix.lower() in _TABLES and (found := _look_at_table(file)):
            return found
        if near and file.suffix.lower() == ".json" and (found := _look_at_coco(file, root)):
            return found
    if not images:
        kinds = ", ".join(
            f"{n} {suffix or 'without suffix'}" for suffix, n in Counter(f.suffix for f in files).most_common(4)
        )
        raise StillhouseError(
            f"holds no images, no table of images and no annotations: {kinds or 'no files'}",
            where=str(place),
            hint="a folder for each class, images and masks in two folders, a CSV file, or COCO's JSON",
        )
    boxes = find_box_files(root, images, [file for file in files if file.suffix.lower() not in _SUFFIXES], _SPLITS)
    if boxes is not None:
        told = f"{len(images):,} images with files of boxes, {boxes.suffix}"
        args = {"root": str(root), "boxes": "boxes", "target": "boxes"}
        return attrs.evolve(_make("table:", args, "boxes", told, images), box_files=boxes)
    below = [file.relative_to(root).parts for file in images]
    return _look_at_pairs(root, below) or _look_at_classes(root, below) or _look_at_photos(root, below)


def _list_files(folder: Path) -> list[Path]:
    from stillhouse.data.files import Walk

    return [folder / file.path for file in Walk(folder).list_files(folder, most=_MOST)]


def _look_at_table(file: Path) -> Findings | None:
    from stillhouse.data.columns import read_columns

    try:
        table = read_columns(file, "")
    except StillhouseError:
        return None  # a table of something else
    rows = range(min(len(table), 200))
    image = next(
        (n for n, v in table.values.items() if all(Path(v[k]).suffix.lower() in _SUFFIXES for k in rows)), None
    )
    if image is None:
        return None
    args: dict[str, Any] = {} if image == "image" else {"image": image}
    split = next((n for n, v in table.values.items() if {t.lower() for t in v} <= _SPLITS.keys()), None)
    if split is not None and split != "split":
        args["split"] = split
    others = [name for name in table.values if name not in (image, split)]
    corners = ["x1", "y1", "x2", "y2"]
    boxes = corners if set(corners) <= set(others) else [n for n in ("xmin", "ymin", "xmax", "ymax") if n in others]
    labels = [name for name in others if name not in boxes]
    label = next((name for known in _LABELS for name in labels if name.lower() == known), labels[0] if labels else None)
    if label is not None and label != "label":
        args["label"] = label
    target = "none" if label is None else "class"
    distinct = set() if label is None else set(table.values[label])
    if len(boxes) == 4:
        target = "boxes"
        args |= {"target": "boxes"} | ({} if boxes == corners else {"boxes": boxes})
    elif label is not None and len(distinct) > 20 and all(re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", t) for t in distinct):
        target = "vector"
        args["target"] = "vector"
    elif target == "none":
        args["target"] = "none"
    shown = [file.parent / table.values[image][k] for k in rows]
    told = f"a table of {len(table):,} rows, {file.name}: images in {image!r}" + (f", {label!r}" if label else "")
    return _make(
        f"table:{file}", args, target, told, shown, len(distinct - {""}) if target in ("class", "boxes") else None
    )


def _look_at_coco(file: Path, root: Path) -> Findings | None:
    try:
        told = json.loads(file.read_bytes())
        name = Path(told["images"][0]["file_name"])
        classes = len(told["categories"])
        images = [entry["file_name"] for entry in told["images"][:_LOOKED_AT]]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    folder = next(
        (path.parent for path in sorted(root.rglob(name.name)) if path.as_posix().endswith(name.as_posix())), None
    )
    if folder is None:
        return None
    args = {"images": str(folder)} if folder != file.parent else {}
    said = f"COCO's annotations of {len(told['images']):,} images in {classes} categories, {file.name}"
    return _make(f"coco:{file}", args, "boxes", said, [folder / each for each in images], classes)


def _look_at_pairs(root: Path, images: Sequence[tuple[str, ...]]) -> Findings | None:
    """Images and targets in two folders whose files have the same names, whatever the suffixes."""
    tops: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for parts in images:
        tops.setdefault(parts[:-1], []).append(parts)
    marked = [top for top in tops if any(_is_target(part) for part in top)]
    if not marked or len(marked) == len(tops):
        return None
    labels = marked[0]
    stems = {Path(parts[-1]).stem for parts in tops[labels]}
    inputs = next(
        (top for top, files in tops.items() if top not in marked and {Path(f[-1]).stem for f in files} & stems), None
    )
    if inputs is None:
        return None
    folders = {key: "/".join(map(_name_split, top)) for key, top in (("images", inputs), ("labels", labels))}
    patterns = {}
    for key, top in (("images", inputs), ("labels", labels)):
        suffix = Counter(Path(parts[-1]).suffix for parts in tops[top]).most_common(1)[0][0]
        patterns[key] = "/".join(filter(None, (folders[key], f"*{suffix}")))
    targets = [root.joinpath(*parts) for top in marked for parts in tops[top]]
    args: dict[str, Any] = {**patterns, **_describe_targets(_spread(targets, _MASKS))}
    alike = [files for top, files in tops.items() if "/".join(map(_name_split, top)) == folders["images"]]
    shown = [root.joinpath(*parts) for files in alike for parts in files]
    told = f"{len(shown):,} images in {folders['images'] or '.'} with a {args['target']} each in {folders['labels']}"
    return _make(f"pairs:{root}", args, str(args["target"]), told, shown, len(args.get("classes", ())) or None)


def _name_split(part: str) -> str:
    """The part of a path with ``{split}`` in the place of a split's name: ``train_depth`` becomes ``{split}_depth``."""
    for name in sorted(_SPLITS, key=len, reverse=True):
        rest = part.lower().removeprefix(name)
        if rest != part.lower() and (not rest[:1].isalpha() or rest in _TARGETS):
            return "{split}" + part[len(name) :]
    return part


def _is_target(part: str) -> bool:
    return part.lower() in _TARGETS or part.lower().rstrip("s").endswith(("mask", "annot", "label", "depth"))


def _describe_targets(files: Sequence[Path]) -> dict[str, Any]:
    """The kind of target images, and the classes of masks: the values that were met."""
    values: set[int] = set()
    for file in files:
        with Image.open(file) as picture:
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


def _look_at_classes(root: Path, images: Sequence[tuple[str, ...]]) -> Findings | None:
    split = sum(parts[0].lower() in _SPLITS and len(parts) > 2 for parts in images) == len(images)
    folders = Counter(parts[1] if split else parts[0] for parts in images if len(parts) > (2 if split else 1))
    if len(folders) < 2 or sum(folders.values()) < len(images):
        return None
    told = f"{len(images):,} images in {len(folders)} folders, a class each" + (
        ", divided into splits" if split else ""
    )
    shown = [root.joinpath(*parts) for parts in images]
    return _make(f"folder:{root}", {}, "class", told, shown, len(folders))


def _look_at_photos(root: Path, images: Sequence[tuple[str, ...]]) -> Findings:
    suffixes = Counter(Path(parts[-1]).suffix for parts in images)
    suffix, count = suffixes.most_common(1)[0]
    pattern = f"**/*{suffix}" if any(len(parts) > 1 for parts in images) else f"*{suffix}"
    told = f"{count:,} images without labels"
    return _make(f"photos:{root}", {"images": pattern}, "none", told, [root.joinpath(*parts) for parts in images])


def _spread(files: Sequence[Path], n: int) -> list[Path]:
    """``n`` of the files, evenly spaced: a folder's first ones are of one class, or one scene."""
    return [files[place] for place in np.linspace(0, len(files) - 1, min(len(files), n)).astype(int)]


def _make(
    name: str, args: Mapping[str, Any], target: str, told: str, images: Sequence[Path], classes: int | None = None
) -> Findings:
    sizes: Counter[tuple[int, int]] = Counter()
    gray = True
    for image in _spread(images, _LOOKED_AT):
        try:
            with Image.open(image) as picture:
                sizes[picture.height, picture.width] += 1
                gray = gray and picture.mode in ("1", "L", "I", "I;16", "F")
        except OSError:
            continue  # training names it
    if not sizes:
        raise StillhouseError("none of the images that were looked at can be read", where=name)
    return Findings(name, args, target, told, sizes.most_common(1)[0][0], gray, classes)
