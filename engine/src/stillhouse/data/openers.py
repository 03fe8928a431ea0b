"""Openers of the engine's own data sets, entry points of the group ``stillhouse.data``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.signatures import call, read_parameters
from stillhouse.config.trust import is_strangers_choice, refuse_stored
from stillhouse.data.coco import Coco
from stillhouse.data.fields import FIELDS_KEY
from stillhouse.data.hub_rows import load_rows
from stillhouse.data.imagefolder import ImageFolder
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.pairs import PairFolder
from stillhouse.data.shards import Shards
from stillhouse.data.sources import Digits, Source, SourceRequest
from stillhouse.data.table import Table
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = [
    "divide_arguments",
    "open_coco",
    "open_folder",
    "open_hf",
    "open_pairs",
    "open_photos",
    "open_shards",
    "open_sklearn",
    "open_table",
    "open_torchvision",
]

_NAME = "data.name"

_UNPICKLED = ("LSUN", "LSUNClass")
"""torchvision's data sets that unpickle a file without a look at its checksum."""


def open_sklearn(name: str, request: SourceRequest) -> Source:
    """Open ``sklearn:digits``."""
    if name != "digits":
        raise StillhouseError(
            f"unknown data set of scikit-learn {name!r}", where=_NAME, hint="did you mean 'sklearn:digits'?"
        )
    _refuse_arguments(request, "sklearn:digits takes no arguments")
    return Digits()


def open_folder(path: str, request: SourceRequest) -> Source:
    """Open ``folder:PATH``, with a folder for each class; ``levels`` folders down to one."""
    _need_path(path, "folder")
    _refuse_arguments(request, f"folder:{path} takes `levels` and no other argument", "levels")
    levels = request.args.get("levels", 1)
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
        raise StillhouseError(f"must be >= 1, got {levels!r}", where="data.args.levels")
    return ImageFolder(request.path(path), request.val_fraction, levels, request.background)


def open_pairs(path: str, request: SourceRequest) -> Source:
    """Open ``pairs:PATH``, images with a file for each one's target."""
    return _open_pairs(path, request, "pairs")


def open_photos(path: str, request: SourceRequest) -> Source:
    """Open ``photos:PATH``, images alone."""
    return _open_pairs(path, request, "photos")


def _open_pairs(path: str, request: SourceRequest, kind: str) -> Source:
    _need_path(path, kind)
    return PairFolder(
        request.path(path),
        request.args,
        request.val_fraction,
        alone=kind == "photos",
        skip_bad=request.skip_bad,
        background=request.background,
    )


def open_table(path: str, request: SourceRequest) -> Source:
    """Open ``table:FILE``, a table of images and what they show."""
    _need_path(path, "table")
    return Table(request.path(path), request.args, request.val_fraction, request.skip_bad, request.background)


def open_shards(pattern: str, request: SourceRequest) -> Source:
    """Open ``shards:PATTERN``, tar files with a sample's files under one name."""
    _need_path(pattern, "shards")
    return Shards(
        request.path(pattern), request.args, request.val_fraction, request.skip_bad, background=request.background
    )


def open_coco(path: str, request: SourceRequest) -> Source:
    """Open ``coco:FILE``, images with COCO's annotations."""
    _need_path(path, "coco")
    return Coco(request.path(path), request.args, request.base or Path(), request.val_fraction, request.background)


def open_hf(path: str, request: SourceRequest) -> Source:
    """Open ``hf:PATH``, a folder that the library datasets wrote by ``save_to_disk``."""
    _need_path(path, "hf")
    known = (FIELDS_KEY, *(field.name for field in attrs.fields(TargetSpec)))
    _refuse_arguments(request, f"hf:{path} takes {', '.join(known)}", *known)
    return DatasetSource(
        load_rows(request.path(path)),
        f"hf:{path}",
        request.val_fraction,
        described=request.args,
        skip_bad=request.skip_bad,
        background=request.background,
    )


def _need_path(path: str, kind: str) -> None:
    if not path:
        raise StillhouseError(f"must be {kind}:PATH, got {kind!r}", where=_NAME)


def _refuse_arguments(request: SourceRequest, what: str, *known: str) -> None:
    wrong = [key for key in request.args if key not in known]
    if wrong:
        raise StillhouseError(what, where=f"data.args.{wrong[0]}")


def divide_arguments(function: Any, args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide ``args`` into the function's arguments and those that describe its samples and their targets."""
    takes, open_ended = read_parameters(function)
    told = {FIELDS_KEY, *(a.name for a in attrs.fields(TargetSpec))} - takes.keys() if not open_ended else set()
    return {k: v for k, v in args.items() if k not in told}, {k: v for k, v in args.items() if k in told}


def open_torchvision(name: str, request: SourceRequest) -> Source:
    """Open a data set class of torchvision. ``root`` defaults to the user's cache, and missing files are downloaded.

    To a folder that a stranger's recipe names nothing is downloaded.
    """
    import torchvision.datasets as sets

    known = [n for n in sets.__all__ if isinstance(getattr(sets, n), type)]
    if name not in known:
        raise StillhouseError(f"torchvision has no data set {name!r}", where=_NAME, hint=did_you_mean(name, known))
    if name in _UNPICKLED:
        refuse_stored(f"torchvision:{name} unpickles a file beside its data, which is code", _NAME)
    kind = getattr(sets, name)
    takes, _ = read_parameters(kind)
    args, described = divide_arguments(kind, request.args)
    if "root" in takes:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stillhouse" / "data"
        args["root"] = str(request.path(args.get("root", cache)))
    if "download" in takes:
        args.setdefault("download", True)
    held_back = bool(args.get("download")) and "root" in request.args and is_strangers_choice(f"torchvision:{name}")
    if held_back:
        args["download"] = False

    def open_part(choice: Mapping[str, Any]) -> Any:
        try:
            return call(kind, {**args, **choice}, "data.args")
        except StillhouseError as error:
            if held_back and isinstance(error.__cause__, RuntimeError):  # as torchvision says that nothing is there
                refuse_stored(f"torchvision:{name} would be downloaded to {args['root']}", "data.args.download")
            raise

    choices: dict[str, dict[str, Any]] = {}
    if "train" in takes and "train" not in args:
        choices = {"train": {"train": True}, "test": {"train": False}}
    else:
        key = next((key for key in ("split", "image_set") if key in takes and key not in args), None)
        choices = {split: {key: split} for split in ("train", "val", "valid", "test")} if key is not None else {}
    if not choices:
        return _wrap_data_sets(open_part({}), name, described, request)
    found = {}
    for split, choice in choices.items():
        try:
            found[split] = open_part(choice)
        except StillhouseError as error:
            # torchvision says ValueError for a split that the data set does not have.
            if split == "train" or not isinstance(error.__cause__, ValueError):
                raise
    return _wrap_data_sets(found, name, described, request)


def _wrap_data_sets(given: Any, name: str, described: Mapping[str, Any], request: SourceRequest) -> Source:
    origin = f"torchvision:{name}"
    return DatasetSource(
        given,
        origin,
        request.val_fraction,
        pure=True,
        described=described,
        skip_bad=request.skip_bad,
        background=request.background,
    )
