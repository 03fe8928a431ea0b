"""Folders of images with a file for each image's target, and folders of images alone."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from stillhouse.config.structure import structure
from stillhouse.data.file_source import FileSource, check_folder
from stillhouse.data.files import FoundFile, Walk, show_name
from stillhouse.data.images import SUFFIXES, WHITE
from stillhouse.data.sources import ALIASES
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults

__all__ = ["PairFolder"]

_SPLIT = "{split}"
_NAMES = ("train", "val", *ALIASES, "test")
_SHOWN = 4

Found = dict[str, FoundFile]
"""Files by the text that pairs them."""


class PairFolder(FileSource):
    """Images below a folder, each with a file for its target; without ``labels``, images alone.

    An image and a label belong together when the wildcards of the two patterns match the same text. Ids number the
    images, train first, by path.

    Args:
        root: the folder.
        args: ``images``, a glob below the folder (``{split}/*.jpg``, ``*.color.jpg``, ``**/*.png``) in which
            ``{split}`` stands for train, val (valid, validation) and test, whichever there are; ``labels``, the glob of
            the targets' files; and the keys of :class:`stillhouse.data.targets.TargetSpec`.
        val_fraction: share held out where there is no val split; the same for test without splits.
        alone: whether these are images without targets.
        skip_bad: leave out images without label and labels without image.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.

    Raises:
        StillhouseError: no such folder, patterns that match nothing, images or labels without a partner.
    """

    def __init__(
        self,
        root: Path,
        args: Mapping[str, Any],
        val_fraction: float,
        alone: bool,
        skip_bad: bool,
        background: int = WHITE,
    ) -> None:
        self.root, self.background = root, background
        check_folder(root)
        patterns, self.spec = _check_patterns(args, alone)
        self.target = self.spec.target
        walk = Walk(root)
        listed = walk.list_files(root)
        splits = _match_splits(patterns, listed, root)
        files: list[FoundFile] = []
        targets: list[FoundFile] = []
        self.splits = {}
        faults: list[Fault] = []
        for split, found in splits.items():
            begin = len(files)
            images = found["images"]
            labels = images if alone else found["labels"]
            own = _SPLIT in patterns.get("labels", "") or len(splits) == 1
            faults += _find_missing(images, labels, split, own)
            for key in sorted(images.keys() & labels.keys(), key=lambda k: images[k].path):
                files.append(images[key])
                targets.append(labels[key])
            self.splits[split] = np.arange(begin, len(files), dtype=np.int64)
        if not files and faults:
            hint = "the wildcards of `images` and `labels` must match the same text for an image and its label"
            raise StillhouseError(faults=[*faults, Fault("data.args", "no image has a label", hint)])
        if faults and skip_bad:
            warnings.warn("; ".join(f"left out: {fault.what}" for fault in faults), StillhouseWarning, stacklevel=2)
        else:
            raise_faults(faults)
        walk.count_others(_find_other_images(listed, files, targets))
        walk.warn(files, "no pattern matches them")
        self.take(files, () if alone else targets)
        self.labels = np.zeros(len(files), dtype=np.int64)
        self.class_names = self.spec.class_names
        self.split_up(val_fraction, whole=_SPLIT not in patterns["images"])
        self.look_at_targets()


def _check_patterns(args: Mapping[str, Any], alone: bool) -> tuple[dict[str, str], TargetSpec]:
    """Check the globs and the keys that describe targets, and return both."""
    needed = ["images"] if alone else ["images", "labels", "target"]
    known = ["images"] if alone else [*needed, *(a.name for a in attrs.fields(TargetSpec) if a.name != "target")]
    kinds = {"mask", "depth", "image"}
    faults = [
        Fault(f"data.args.{key}", f"unknown key {key!r}", did_you_mean(key, known)) for key in args if key not in known
    ]
    examples = {"images": '"{split}/*.jpg"', "labels": '"{split}annot/*.png"', "target": '"mask", "depth" or "image"'}
    faults += [
        Fault(f"data.args.{key}", "missing key", f"{key} = {examples[key]}") for key in needed if key not in args
    ]
    patterns = {key: args[key] for key in needed[:2] if key in args}
    for key, pattern in patterns.items():
        if not isinstance(pattern, str) or "*" not in pattern:
            faults.append(Fault(f"data.args.{key}", f"must be a pattern with a *, got {pattern!r}", examples[key]))
    if not faults and _SPLIT in patterns.get("labels", "") and _SPLIT not in patterns["images"]:
        faults.append(Fault("data.args.images", "must contain {split}, as `labels` does", examples["images"]))
    if "target" in args and args["target"] not in kinds:
        what = f"must be mask, depth or image, got {args['target']!r}"
        faults.append(Fault("data.args.target", what))
    raise_faults(faults)
    told = {key: value for key, value in args.items() if key not in ("images", "labels")}
    spec: TargetSpec = structure({"target": "none", **told}, TargetSpec, "data.args")
    return patterns, spec


def _find_other_images(
    listed: Sequence[FoundFile], files: Sequence[FoundFile], targets: Sequence[FoundFile]
) -> list[FoundFile]:
    """Find images with another suffix that lie beside those that were matched: more of the same, it seems."""
    used = {file.path for file in (*files, *targets)}
    suffixes = {file.suffix for file in (*files, *targets)}
    folders = {file.path.rpartition("/")[0] for file in files}
    return [
        file
        for file in listed
        if file.suffix in SUFFIXES
        and file.suffix not in suffixes
        and file.path not in used
        and file.path.rpartition("/")[0] in folders
    ]


def _match_files(pattern: str, listed: Sequence[FoundFile]) -> Found:
    """Match files with the glob, its suffix in either case; keys are the texts of its wildcards."""
    stem, suffix = re.fullmatch(r"(.*?)(\.[^./*?]+)?", pattern.removeprefix("./"), re.DOTALL).groups("")  # type: ignore[union-attr]
    wild = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)", "?": "([^/])"}
    expression = "".join(wild.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*|\?)", stem))
    # Cameras and Windows write .JPG, and those files would be left out without a word.
    compiled = re.compile(f"{expression}(?i:{re.escape(suffix)})", re.DOTALL)
    found: Found = {}
    for file in listed:
        if m := compiled.fullmatch(file.path):
            # A Mac writes é as two characters, and other systems as one: an image and its mask are from one of each.
            key = unicodedata.normalize("NFC", "\0".join(m.groups()))
            if key in found:
                both = f"{show_name(found[key].path)} and {show_name(file.path)}"
                what = f"{both} differ in their suffix's case, or in how accents are written, alone"
                raise StillhouseError(what, where="data.args", hint="rename or remove one")
            found[key] = file
    return found


def _match_splits(patterns: Mapping[str, str], listed: Sequence[FoundFile], root: Path) -> dict[str, dict[str, Found]]:
    """Match files with each pattern, by split; a single split ``train`` where the patterns name none."""
    found: dict[str, dict[str, Found]] = {}
    names: dict[str, str] = {}
    if _SPLIT not in patterns["images"]:
        found["train"] = {key: _match_files(pattern, listed) for key, pattern in patterns.items()}
    else:
        for name in (spelled for base in _NAMES for spelled in (base, base.capitalize(), base.upper())):
            matched = {key: _match_files(p.replace(_SPLIT, name), listed) for key, p in patterns.items()}
            if not matched["images"]:
                continue
            split = ALIASES.get(name.lower(), name.lower())
            if split in found:
                raise StillhouseError(
                    f"two folders for the split {split!r}: {names[split]} and {name}", where=str(root)
                )
            found[split], names[split] = matched, name
    if not any(split["images"] for split in found.values()):
        some = ", ".join(show_name(file.path) for file in listed[:3])
        raise StillhouseError(
            f"{patterns['images']!r} matches no file below {root}",
            where="data.args.images",
            hint=f"its files: {some}{', ...' if len(listed) > 3 else ''}" if listed else "the folder is empty",
        )
    if "train" not in found:
        raise StillhouseError(
            f"needs a split train, got {', '.join(found)}",
            where="data.args.images",
            hint="train, val, test",
        )
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _find_missing(images: Found, labels: Found, split: str, own: bool) -> list[Fault]:
    """Find images without label, and labels without image where the labels are the split's ``own``."""
    faults = []
    for key, ours, theirs, what, other in (
        ("labels", images, labels, "images", "label"),
        ("images", labels, images, "labels", "image"),
    ):
        lone = sorted(show_name(ours[k].path) for k in ours.keys() - theirs.keys())
        if lone and (key == "labels" or own):
            shown = ", ".join(lone[:_SHOWN]) + (", ..." if len(lone) > _SHOWN else "")
            text = f"{len(lone)} of {len(ours)} {split} {what} have no {other}: {shown}"
            faults.append(Fault(f"data.args.{key}", text, "add them, or leave these out with --skip-bad"))
    return faults
