"""What ``[data] name`` can be: sklearn:digits, folder:PATH, torchvision:NAME or package.module:callable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.arguments import call, parameters_of
from stillhouse.data.imagefolder import ImageFolder
from stillhouse.data.sources import DatasetSource, Digits, Source
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.importing import import_object

__all__ = ["open_source"]

_FORMS = "a data set is sklearn:digits, folder:PATH, torchvision:NAME or package.module:callable"


def open_source(name: str, args: Mapping[str, Any], val_fraction: float, base: Path | None) -> Source:
    """The samples that a recipe's ``name`` and ``args`` mean.

    Args:
        name: the data set's name.
        args: arguments of the callable, for ``torchvision:`` and ``package.module:callable``.
        val_fraction: share of each class to hold out where the source has no validation split.
        base: the recipe's folder, which relative paths and modules are looked up in.

    Raises:
        StillhouseError: no such data set, or one that cannot be used; what, where, what would be right.
    """
    scheme, colon, rest = name.partition(":")
    if not (colon and rest):
        raise StillhouseError(f"{name!r} names no data set", where="data.name", hint=_FORMS)
    if scheme in ("sklearn", "folder") and args:
        raise StillhouseError(f"{scheme}:{rest} takes no arguments", where=f"data.args.{next(iter(args))}")
    if scheme == "sklearn":
        if rest != "digits":
            raise StillhouseError(
                f"scikit-learn's {rest!r} is not read here", where="data.name", hint="did you mean 'sklearn:digits'?"
            )
        return Digits()
    if scheme == "folder":
        return ImageFolder((base or Path()) / Path(rest).expanduser(), val_fraction)
    if scheme == "torchvision":
        return _torchvision(rest, dict(args), val_fraction, base)
    function = import_object(name, "data.name", base)
    if not callable(function):
        raise StillhouseError(f"{name!r} is {type(function).__name__}, and no callable", where="data.name")
    return DatasetSource(call(function, args, "data.args"), name, val_fraction)


def _torchvision(name: str, args: dict[str, Any], val_fraction: float, base: Path | None) -> Source:
    """A data set class of torchvision. Its ``root`` defaults to the user's cache, and missing files are downloaded."""
    import torchvision.datasets as sets

    known = [n for n in sets.__all__ if isinstance(getattr(sets, n), type)]
    if name not in known:
        raise StillhouseError(
            f"torchvision has no data set {name!r}", where="data.name", hint=did_you_mean(name, known)
        )
    kind = getattr(sets, name)
    takes, _ = parameters_of(kind)
    if "root" in takes:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stillhouse" / "data"
        args["root"] = str((base or Path()) / Path(args.get("root", cache)).expanduser())
    if "download" in takes:
        args.setdefault("download", True)
    choices: dict[str, dict[str, Any]] = {}
    if "train" in takes and "train" not in args:
        choices = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes and "split" not in args:
        choices = {split: {"split": split} for split in ("train", "val", "valid", "test")}
    if not choices:
        return DatasetSource(call(kind, args, "data.args"), f"torchvision:{name}", val_fraction, pure=True)
    found = {}
    for split, choice in choices.items():
        try:
            found[split] = call(kind, {**args, **choice}, "data.args")
        except StillhouseError as error:
            # torchvision says ValueError for a split that the data set does not have.
            if split == "train" or not isinstance(error.__cause__, ValueError):
                raise
    return DatasetSource(found, f"torchvision:{name}", val_fraction, pure=True)
