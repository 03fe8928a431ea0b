"""What ``[data] name`` can be: digits, folders of images, torchvision's data sets, callables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.references import import_object
from stillhouse.config.signatures import call, parameters_of
from stillhouse.data.imagefolder import ImageFolder
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.pairs import PairFolder
from stillhouse.data.sources import Digits, Source
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["open_source"]

_FORMS = (
    "a data set is sklearn:digits, folder:PATH, pairs:PATH, photos:PATH, torchvision:NAME or package.module:callable"
)


def open_source(
    name: str, args: Mapping[str, Any], val_fraction: float, base: Path | None, skip_bad: bool = False
) -> Source:
    """The samples that a recipe's ``name`` and ``args`` mean.

    Args:
        name: the data set's name.
        args: arguments of the callable, for ``torchvision:`` and ``package.module:callable``, and beside them what is
            said of its targets; for ``pairs:`` and ``photos:`` the files' patterns.
        val_fraction: share of each class to hold out where the source has no validation split.
        base: the recipe's folder, which relative paths and modules are looked up in.
        skip_bad: leave out files whose partner is missing, and go on where samples of a callable cannot be read.

    Raises:
        StillhouseError: no such data set, or one that cannot be used; what, where, what would be right.
    """
    scheme, colon, rest = name.partition(":")
    if not (colon and rest):
        raise StillhouseError(f"{name!r} names no data set", where="data.name", hint=_FORMS)
    wrong = [key for key in args if scheme == "sklearn" or (scheme == "folder" and key != "levels")]
    if wrong:
        takes = "takes no arguments" if scheme == "sklearn" else "takes `levels` and no other argument"
        raise StillhouseError(f"{scheme}:{rest} {takes}", where=f"data.args.{wrong[0]}")
    if scheme == "sklearn":
        if rest != "digits":
            raise StillhouseError(
                f"scikit-learn's {rest!r} is not read here", where="data.name", hint="did you mean 'sklearn:digits'?"
            )
        return Digits()
    if scheme == "folder":
        levels = args.get("levels", 1)
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise StillhouseError(f"{levels!r} is no number of folders", where="data.args.levels", hint="1 or more")
        return ImageFolder((base or Path()) / Path(rest).expanduser(), val_fraction, levels)
    if scheme in ("pairs", "photos"):
        root = (base or Path()) / Path(rest).expanduser()
        return PairFolder(root, args, val_fraction, alone=scheme == "photos", skip_bad=skip_bad)
    if scheme == "torchvision":
        return _torchvision(rest, dict(args), val_fraction, base, skip_bad)
    function = import_object(name, "data.name", base)
    if not callable(function):
        raise StillhouseError(f"{name!r} is {type(function).__name__}, and no callable", where="data.name")
    own, described = _divided(function, args)
    return DatasetSource(call(function, own, "data.args"), name, val_fraction, described=described, skip_bad=skip_bad)


def _divided(function: Any, args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``args`` for the function, and those that it does not take and that describe its targets."""
    takes, open_ended = parameters_of(function)
    told = {a.name for a in attrs.fields(TargetSpec)} - takes.keys() if not open_ended else set()
    return {k: v for k, v in args.items() if k not in told}, {k: v for k, v in args.items() if k in told}


def _torchvision(name: str, args: dict[str, Any], val_fraction: float, base: Path | None, skip_bad: bool) -> Source:
    """A data set class of torchvision. Its ``root`` defaults to the user's cache, and missing files are downloaded."""
    import torchvision.datasets as sets

    known = [n for n in sets.__all__ if isinstance(getattr(sets, n), type)]
    if name not in known:
        raise StillhouseError(
            f"torchvision has no data set {name!r}", where="data.name", hint=did_you_mean(name, known)
        )
    kind = getattr(sets, name)
    takes, _ = parameters_of(kind)
    args, described = _divided(kind, args)
    if "root" in takes:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stillhouse" / "data"
        args["root"] = str((base or Path()) / Path(args.get("root", cache)).expanduser())
    if "download" in takes:
        args.setdefault("download", True)
    choices: dict[str, dict[str, Any]] = {}
    if "train" in takes and "train" not in args:
        choices = {"train": {"train": True}, "test": {"train": False}}
    else:
        key = next((key for key in ("split", "image_set") if key in takes and key not in args), None)
        choices = {split: {key: split} for split in ("train", "val", "valid", "test")} if key is not None else {}
    if not choices:
        given = call(kind, args, "data.args")
        return DatasetSource(
            given, f"torchvision:{name}", val_fraction, pure=True, described=described, skip_bad=skip_bad
        )
    found = {}
    for split, choice in choices.items():
        try:
            found[split] = call(kind, {**args, **choice}, "data.args")
        except StillhouseError as error:
            # torchvision says ValueError for a split that the data set does not have.
            if split == "train" or not isinstance(error.__cause__, ValueError):
                raise
    return DatasetSource(found, f"torchvision:{name}", val_fraction, pure=True, described=described, skip_bad=skip_bad)
