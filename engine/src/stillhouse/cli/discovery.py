"""What a folder of somebody's own holds: a look at names and a few files."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from stillhouse.cli.box_files import find_box_files
from stillhouse.cli.findings import (
    LABELS,
    LOOKED_AT,
    MASKS,
    SPLITS,
    SUFFIXES,
    Findings,
    describe_targets,
    is_target,
    make_findings,
    spread,
)
from stillhouse.cli.packed import holds_rows, look_at_rows, look_at_shards
from stillhouse.errors import StillhouseError

__all__ = ["look_at"]

_TABLES = (".csv", ".tsv", ".parquet")
_PLAIN = (
    "images",
    "image",
    "imgs",
    "img",
    "photos",
    "photographs",
    "pictures",
    "frames",
    "unlabelled",
    "unlabeled",
    "data",
)
"""What a folder of all images is called."""
_MOST = 200_000
"""Files that are listed: in a home folder there is no end of them."""


def look_at(place: Path) -> Findings:
    """Look at a folder of images, with or without masks, boxes or a table, packed or not; or at a table, or COCO's annotations.

    Raises:
        StillhouseError: there is nothing of the kind, or a single class.
    """
    if place.suffix.lower() == ".tar" and place.is_file():
        return look_at_shards(place)
    if holds_rows(place):
        return look_at_rows(place)
    if place.is_file():
        files = [place]
        root = place.parent
    elif place.is_dir():
        root = place
        files = _list_files(place)
    else:
        raise StillhouseError("no such file or folder", where=str(place))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    for file in files:
        near = len(file.relative_to(root).parts) <= 2
        if near and file.suffix.lower() in _TABLES and (found := _look_at_table(file)):
            return found
        if near and file.suffix.lower() == ".json" and (found := _look_at_coco(file, root)):
            return found
    if not images and any(file.suffix.lower() == ".tar" for file in files):
        return look_at_shards(place)
    if not images:
        kinds = ", ".join(
            f"{n} {suffix or 'without suffix'}" for suffix, n in Counter(f.suffix for f in files).most_common(4)
        )
        raise StillhouseError(
            f"holds no images, no table of images and no annotations: {kinds or 'no files'}",
            where=str(place),
            hint="a folder for each class, images and masks in two folders, a CSV file, COCO's JSON, tar shards, or "
            "a Hugging Face data set on disk",
        )
    boxes = find_box_files(root, images, [file for file in files if file.suffix.lower() not in SUFFIXES], SPLITS)
    if boxes is not None:
        told = f"{len(images):,} images with files of boxes, {boxes.suffix}"
        args = {"root": str(root), "boxes": "boxes", "target": "boxes"}
        return attrs.evolve(make_findings("table:", args, "boxes", told, images), box_files=boxes)
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
    image = next((n for n, v in table.values.items() if all(Path(v[k]).suffix.lower() in SUFFIXES for k in rows)), None)
    if image is None:
        return None
    args: dict[str, Any] = {} if image == "image" else {"image": image}
    split = next((n for n, v in table.values.items() if {t.lower() for t in v} <= SPLITS.keys()), None)
    if split is not None and split != "split":
        args["split"] = split
    others = [name for name in table.values if name not in (image, split)]
    corners = ["x1", "y1", "x2", "y2"]
    boxes = corners if set(corners) <= set(others) else [n for n in ("xmin", "ymin", "xmax", "ymax") if n in others]
    labels = [name for name in others if name not in boxes]
    label = next((name for known in LABELS for name in labels if name.lower() == known), labels[0] if labels else None)
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
    return make_findings(
        f"table:{file}", args, target, told, shown, len(distinct - {""}) if target in ("class", "boxes") else None
    )


def _look_at_coco(file: Path, root: Path) -> Findings | None:
    try:
        told = json.loads(file.read_bytes())
        name = Path(told["images"][0]["file_name"])
        classes = len(told["categories"])
        images = [entry["file_name"] for entry in told["images"][:LOOKED_AT]]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    folder = next(
        (path.parent for path in sorted(root.rglob(name.name)) if path.as_posix().endswith(name.as_posix())), None
    )
    if folder is None:
        return None
    args = {"images": str(folder)} if folder != file.parent else {}
    said = f"COCO's annotations of {len(told['images']):,} images in {classes} categories, {file.name}"
    return make_findings(f"coco:{file}", args, "boxes", said, [folder / each for each in images], classes)


def _look_at_pairs(root: Path, images: Sequence[tuple[str, ...]]) -> Findings | None:
    """Images and targets in two folders whose files have the same names, whatever the suffixes."""
    tops: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for parts in images:
        tops.setdefault(parts[:-1], []).append(parts)
    marked = [top for top in tops if any(is_target(part) for part in top)]
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
    args: dict[str, Any] = {**patterns, **describe_targets(spread(targets, MASKS))}
    alike = [files for top, files in tops.items() if "/".join(map(_name_split, top)) == folders["images"]]
    shown = [root.joinpath(*parts) for files in alike for parts in files]
    told = f"{len(shown):,} images in {folders['images'] or '.'} with a {args['target']} each in {folders['labels']}"
    return make_findings(f"pairs:{root}", args, str(args["target"]), told, shown, len(args.get("classes", ())) or None)


def _name_split(part: str) -> str:
    """The part of a path with ``{split}`` in the place of a split's name: ``train_depth`` becomes ``{split}_depth``."""
    for name in sorted(SPLITS, key=len, reverse=True):
        rest = part.lower().removeprefix(name)
        if rest != part.lower() and (not rest[:1].isalpha() or is_target(rest)):
            return "{split}" + part[len(name) :]
    return part


def _look_at_classes(root: Path, images: Sequence[tuple[str, ...]]) -> Findings | None:
    """A folder for each class, with or without splits above, or in the one folder that an archive was packed from.

    Raises:
        StillhouseError: there is one class.
    """
    split = sum(parts[0].lower() in SPLITS and len(parts) > 2 for parts in images) == len(images)
    level = 1 if split else 0
    folders = Counter(parts[level] for parts in images if len(parts) > level + 1)
    if sum(folders.values()) < len(images):
        return None
    if len(folders) == 1:
        return _look_into_the_only_folder(root, next(iter(folders)), images, level)
    told = f"{len(images):,} images in {len(folders)} folders, a class each" + (
        ", divided into splits" if split else ""
    )
    shown = [root.joinpath(*parts) for parts in images]
    return make_findings(f"folder:{root}", {}, "class", told, shown, len(folders))


def _look_into_the_only_folder(root: Path, name: str, images: Sequence[tuple[str, ...]], level: int) -> Findings | None:
    if name.lower() in _PLAIN or name.lower() in SPLITS:
        return None  # no class's name
    if level == 0 and all(len(parts) > 2 for parts in images):
        return look_at(root / name)
    empty = sorted(f.name for f in root.iterdir() if f.is_dir() and f.name != name and not f.name.startswith("."))
    others = f"; no image is in {', '.join(map(repr, empty[:4]))}" if empty and not level else ""
    raise StillhouseError(
        f"all {len(images):,} images are in one folder, {name!r}: one class cannot be told from others{others}",
        where=str(root),
        hint=f"a folder for each of two classes or more; without labels: stillhouse init {shlex.quote(str(root.joinpath(*images[0][: level + 1])))}",
    )


def _look_at_photos(root: Path, images: Sequence[tuple[str, ...]]) -> Findings:
    suffixes = Counter(Path(parts[-1]).suffix for parts in images)
    suffix, count = suffixes.most_common(1)[0]
    pattern = f"**/*{suffix}" if any(len(parts) > 1 for parts in images) else f"*{suffix}"
    told = f"{count:,} images without labels"
    return make_findings(
        f"photos:{root}", {"images": pattern}, "none", told, [root.joinpath(*parts) for parts in images]
    )
