"""The ImageFolder layout: a folder of images for each class."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from stillhouse.data.file_source import FileSource, check_folder
from stillhouse.data.files import FoundFile, Walk, show_name
from stillhouse.data.images import SUFFIXES, WHITE
from stillhouse.data.sources import ALIASES
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["ImageFolder"]

_SPLITS = {"train": "train", "val": "val", "test": "test", **ALIASES}


def _refuse_split_names(root: Path, walk: Walk) -> None:
    """Refuse split folders without class folders in them: they are not classes themselves."""
    named = [folder.name for folder in walk.list_folders(root) if folder.name.lower() in _SPLITS]
    if len(named) > 1:  # a single one may be a class: of vehicles, say
        raise StillhouseError(
            f"the split folders {named[0]!r} and {named[1]!r} in {root} hold no class folders",
            where="data.name",
            hint="PATH/train/CLASS/image.jpg; images with a file for each one's target are pairs:PATH",
        )


class ImageFolder(FileSource):
    """``PATH/{train,val,test}/CLASS/*.jpg``, or ``PATH/CLASS/*.jpg``, which is then split by class.

    Names of splits and suffixes may be upper case; ``valid`` and ``validation`` mean ``val``. Class folders are
    searched to any depth. Classes are those of ``train``, sorted by name. Ids number the files, train first, by class
    and path.

    Args:
        root: the folder.
        val_fraction: share of each class held out where there is no val split; the same for test without splits.
        levels: folders down to a class: 2 makes ``PATH/Greek/character01/*.png`` the class ``Greek/character01``.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.

    Raises:
        StillhouseError: no such folder, no class folders, no images, a class that ``train`` does not have, or whose
            name is not UTF-8.
    """

    def __init__(self, root: Path, val_fraction: float, levels: int = 1, background: int = WHITE) -> None:
        self.root, self.background = root, background
        check_folder(root)
        walk = Walk(root)
        tops = _find_split_folders(root, walk)
        if not tops:
            _refuse_split_names(root, walk)
        whole = not tops
        files: list[FoundFile] = []
        labels: list[int] = []
        self.splits = {}
        self.class_names = tuple(sorted(_list_classes(tops.get("train", root), levels, walk)))
        if not self.class_names:
            raise StillhouseError(
                f"{tops.get('train', root)} has no class folders", where="data.name", hint="PATH/train/CLASS/image.jpg"
            )
        faults: list[Fault] = []
        for split, top in (tops or {"train": root}).items():
            begin = len(files)
            for name, folder in sorted(_list_classes(top, levels, walk).items()):
                if name not in self.class_names:
                    near = did_you_mean(name, self.class_names)
                    faults.append(Fault(show_name(folder), "this class is not in the training split", near))
                    continue
                if show_name(name) != name:
                    faults.append(
                        Fault(show_name(folder), "a class's name must be UTF-8, in one line", "rename its folder")
                    )
                images = walk.list_files(folder, SUFFIXES)
                if not images and split == "train":
                    suffixes = ", ".join(s[1:] for s in SUFFIXES)
                    faults.append(Fault(show_name(folder), "this class folder holds no images", f"{suffixes} are read"))
                files += images
                labels += [self.class_names.index(name)] * len(images)
            self.splits[split] = np.arange(begin, len(files), dtype=np.int64)
            if begin == len(files) and not faults:
                faults.append(Fault("data.name", f"the split {split!r} is empty: no images in {top}"))
        raise_faults(faults)
        walk.warn(files, "images are " + ", ".join(s[1:] for s in SUFFIXES))
        self.take(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.split_up(val_fraction, whole)


def _list_classes(top: Path, levels: int, walk: Walk) -> dict[str, Path]:
    """List the class folders ``levels`` below ``top``, by their path from there; images above them are left out."""
    found = [top]
    for _ in range(levels):
        for folder in found:
            loose = [file.path for file in walk.list_own(folder) if file.suffix in SUFFIXES]
            if loose:
                walk.leave_out("images beside the class folders", *loose)
        found = [inner for folder in found for inner in walk.list_folders(folder)]
    named: dict[str, Path] = {}
    for folder in found:
        # A Mac writes é as two characters, and other systems as one: it is one class, of a teacher or another split too.
        name = unicodedata.normalize("NFC", folder.relative_to(top).as_posix())
        if name in named:
            what = f"two folders for the class {name!r}, whose accents are written in one character and in two"
            raise StillhouseError(what, where=str(top), hint="put them together")
        named[name] = folder
    return named


def _find_split_folders(root: Path, walk: Walk) -> dict[str, Path]:
    """Find the split folders, train first; none when the folders at the top are the classes."""
    found: dict[str, Path] = {}
    others: list[str] = []
    for folder in walk.list_folders(root):
        split = _SPLITS.get(folder.name.lower())
        if split is None or not walk.list_folders(folder):
            others.append(folder.name)
            continue  # without folders in it, a folder named `train` is a class: of vehicles, say
        if split in found:
            raise StillhouseError(
                f"two folders for the split {split!r}: {found[split].name} and {folder.name}", where=str(root)
            )
        found[split] = folder
    if found and "train" not in found:
        names = ", ".join(p.name for p in found.values())
        raise StillhouseError(f"needs a train folder beside {names}", where=str(root))
    if found and others:
        walk.leave_out("folders that are no splits", *others)
    return {name: found[name] for name in ("train", "val", "test") if name in found}
