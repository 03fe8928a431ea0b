"""Images that lie packed: tar shards, and a folder that Hugging Face's ``save_to_disk`` wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stillhouse.cli.findings import (
    LABELS,
    LOOKED_AT,
    MASKS,
    SUFFIXES,
    Findings,
    describe_targets,
    make_findings,
    spread,
)
from stillhouse.data.hub_rows import guess_fields, list_columns, load_rows
from stillhouse.data.shard_index import Member, ShardSample, find_shards, index_shard, list_extensions, read_member
from stillhouse.errors import StillhouseError

__all__ = ["holds_rows", "look_at_rows", "look_at_shards"]

_READ = 500
"""Targets that are read, to tell what they are."""


def look_at_shards(place: Path) -> Findings:
    """Look at tar shards: the first one of each split is indexed, and some of its samples are read.

    Raises:
        StillhouseError: no shard can be read, or no sample in it has an image.
    """
    by_split = find_shards(place)
    samples = [(shards[0], sample) for shards in by_split.values() for sample in index_shard(shards[0])]
    endings = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
    names = [[e for e in sample.files if e in endings] for _, sample in samples]
    if not any(names):
        found = list_extensions(samples[0][1].files) if samples else "nothing"
        raise StillhouseError("no sample of its shards has an image", where=str(place), hint=f"the first has {found}")
    pictures = [(shard, sample, min(own, key=len)) for (shard, sample), own in zip(samples, names, strict=True) if own]
    args, classes = _describe_shards(pictures)
    count = sum(map(len, by_split.values()))
    told = f"{count} tar shard{'s' if count > 1 else ''}" + (", divided into splits" if len(by_split) > 1 else "")
    told += f", {len(samples):,} samples in the first{' of each' if len(by_split) > 1 else ''}"
    shown = [io.BytesIO(read_member(shard, sample.files[e])) for shard, sample, e in spread(pictures, LOOKED_AT)]
    return make_findings(f"shards:{place}", args, args.get("target", "class"), told, shown, classes)


def _describe_shards(pictures: Sequence[tuple[Path, ShardSample, str]]) -> tuple[dict[str, Any], int | None]:
    """What ``args`` must say of the targets, and how many classes there are, where that is known."""
    some = spread(pictures, _READ)
    common = set.intersection(*({*sample.files} - {image} for _, sample, image in some))

    def read(ending: str, most: int = _READ) -> list[bytes]:
        return [read_member(shard, Member(*sample.files[ending])) for shard, sample, _ in spread(some, most)]

    if "cls" in common:
        return {}, len(set(read("cls")))
    image = next((e for e in sorted(common) if f".{e.rpartition('.')[2]}" in SUFFIXES), None)
    if image is not None:
        described = describe_targets(map(io.BytesIO, read(image, MASKS)))
        own = sorted({e for _, _, e in some})
        return {"image": own, "label": image, **described}, len(described.get("classes", ())) or None
    if "json" in common and (found := _describe_entries([json.loads(text) for text in read("json")])):
        return found
    if "txt" in common and 1 < 2 * len(texts := set(read("txt"))) <= len(
        some
    ):  # each text comes more than once: no captions
        return {"label": "txt"}, len(texts)
    return {"target": "none"}, None


def _describe_entries(values: Sequence[Any]) -> tuple[dict[str, Any], int | None] | None:
    """What the entries of JSON files are; None for something else."""
    keys = set.intersection(*(set(value) if isinstance(value, Mapping) else set() for value in values))
    if {"boxes", "labels"} <= keys:
        classes = 1 + max((int(label) for value in values for label in value["labels"]), default=0)
        return {"target": "boxes", "label": "json", "classes": classes}, classes
    key = next((key for known in LABELS for key in sorted(keys) if key.lower() == known), None)
    found = [] if key is None else [value[key] for value in values]
    if not found:
        return None
    if all(isinstance(each, str | int) for each in found):
        return {"label": f"json:{key}"}, len(set(found))
    vectors = all(isinstance(each, float | int | list) for each in found)
    return ({"target": "vector", "label": f"json:{key}"}, None) if vectors else None


def holds_rows(place: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))


def look_at_rows(place: Path) -> Findings:
    """Look at a folder that ``save_to_disk`` wrote.

    Raises:
        StillhouseError: the library is missing, no column has images, or the classes are no numbers.
    """
    found = load_rows(place)
    splits: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"train": found}
    rows = splits.get("train", next(iter(splits.values())))
    images, classes = list_columns(rows, "Image"), list_columns(rows, "ClassLabel")
    if not images:
        what = f"no column has images: {', '.join(map(repr, rows.column_names))}"
        raise StillhouseError(
            what, where=str(place), hint='rows.cast_column("path", datasets.Image()) makes one of paths'
        )
    image = images[0]
    total = sum(map(len, splits.values()))
    told = f"a Hugging Face data set of {total:,} rows" + (f" in {len(splits)} splits" if len(splits) > 1 else "")
    args, number = _describe_rows(rows, place, image, images[1:], classes)
    label = args.get("fields", {}).get("target", classes[0] if classes else None)
    told += f": images in {image!r}" + (f", {label!r}" if label and args.get("target") != "none" else "")
    shown: list[Image.Image] = [rows[k][image] for k in spread(range(len(rows)), LOOKED_AT)]
    return make_findings(f"hf:{place}", args, args.get("target", "class"), told, shown, number)


def _describe_rows(
    rows: Any, place: Path, image: str, others: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, Any], int | None]:
    """What ``args`` must say of the columns, and how many classes there are, where that is known."""
    if classes:
        named = {} if guess_fields(rows) is not None else {"fields": {"input": image, "target": classes[0]}}
        return named, len(rows.features[classes[0]].names)
    if others:
        described = describe_targets(rows[k][others[0]] for k in spread(range(len(rows)), MASKS))
        fields = {"input": image, "target": others[0]}
        return {"fields": fields, **described}, len(described.get("classes", ())) or None
    label = next((name for known in LABELS for name in rows.column_names if name.lower() == known), None)
    if label is None:
        return {"fields": {"input": image}, "target": "none"}, None
    kind = rows.features[label].dtype
    if kind.startswith("float"):
        return {"fields": {"input": image, "target": label}, "target": "vector"}, None
    if not kind.startswith(("int", "uint")):
        hint = f"rows.class_encode_column({label!r}).save_to_disk(...) numbers its names"
        raise StillhouseError(
            f"the column {label!r} is of {kind}, and classes are numbers", where=str(place), hint=hint
        )
    return {"fields": {"input": image, "target": label}}, len(set(rows[label]))
