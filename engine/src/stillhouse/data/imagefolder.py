"""The ImageFolder layout: a folder of images for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from stillhouse.data.images import are_gray, decode
from stillhouse.data.sources import ALIASES, Source
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["ImageFolder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SPLITS = {"train": "train", "val": "val", "test": "test", **ALIASES}


def _refuse_split_names(root: Path) -> None:
    """Refuse split folders without class folders in them: they are not classes themselves."""
    named = [p.name for p in _list_folders(root) if p.name.lower() in ("train", "val", "valid", "validation", "test")]
    if len(named) > 1:  # a single one may be a class: of vehicles, say
        raise StillhouseError(
            f"the split folders {named[0]!r} and {named[1]!r} in {root} hold no class folders",
            where="data.name",
            hint="PATH/train/CLASS/image.jpg; images with a file for each one's target are pairs:PATH",
        )


class ImageFolder(Source):
    """``PATH/{train,val,test}/CLASS/*.jpg``, or ``PATH/CLASS/*.jpg``, which is then split by class.

    Names of splits and suffixes may be upper case; ``valid`` and ``validation`` mean ``val``. Class folders are
    searched to any depth. Classes are those of ``train``, sorted by name. Ids number the files, train first, by class
    and path.

    Args:
        root: the folder.
        val_fraction: share of each class held out where there is no val split; the same for test without splits.
        levels: folders down to a class: 2 makes ``PATH/Greek/character01/*.png`` the class ``Greek/character01``.

    Raises:
        StillhouseError: no such folder, no class folders, no images, or a class that ``train`` does not have.
    """

    def __init__(self, root: Path, val_fraction: float, levels: int = 1) -> None:
        self.root = root
        if not root.is_dir():
            near = did_you_mean(root.name, [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else [])
            hint = near if near.startswith("did you mean") else ""
            raise StillhouseError(f"folder not found: {root}", where="data.name", hint=hint)
        tops = _find_split_folders(root)
        if not tops:
            _refuse_split_names(root)
        whole = not tops
        files: list[str] = []
        stats: list[str] = []
        labels: list[int] = []
        self.splits = {}
        self.class_names = tuple(sorted(_list_classes(tops.get("train", root), levels)))
        if not self.class_names:
            raise StillhouseError(
                f"{tops.get('train', root)} has no class folders", where="data.name", hint="PATH/train/CLASS/image.jpg"
            )
        faults: list[Fault] = []
        for split, top in (tops or {"train": root}).items():
            begin = len(files)
            for name, folder in sorted(_list_classes(top, levels).items()):
                if name not in self.class_names:
                    near = did_you_mean(name, self.class_names)
                    faults.append(Fault(str(folder), "this class is not in the training split", near))
                    continue
                images = _list_images(folder, root)
                if not images and split == "train":
                    suffixes = ", ".join(s[1:] for s in _SUFFIXES)
                    faults.append(Fault(str(folder), "this class folder holds no images", f"{suffixes} are read"))
                for path, size, mtime in images:
                    files.append(path)
                    stats.append(f"{path}\0{size}\0{mtime}")
                    labels.append(self.class_names.index(name))
            self.splits[split] = np.arange(begin, len(files), dtype=np.int64)
            if begin == len(files) and not faults:
                faults.append(Fault("data.name", f"the split {split!r} is empty: no images in {top}"))
        raise_faults(faults)
        self.files = np.asarray(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.stamp = "\n".join(stats).encode(errors="surrogateescape")
        self.split_up(val_fraction, whole)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return decode(self.root / self.files[i])

    def read_stored(self, i: int) -> bytes | None:
        """See :meth:`Source.read_stored`: the file's bytes."""
        try:
            content: bytes = (self.root / self.files[i]).read_bytes()
            return content
        except OSError as error:
            raise StillhouseError(f"this image cannot be read: {error.strerror}", where=self.place(i)) from None

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return str(self.root / self.files[i])

    def channels(self) -> int:
        """Return 1 when 32 training images, evenly spaced, are all greyscale; else 3.

        Photographs in colour are often mixed with a few in grey, which are then read as RGB.
        """
        train = self.splits["train"]
        some = train[np.linspace(0, len(train) - 1, min(32, len(train))).astype(np.int64)]
        return 1 if are_gray(self.root / self.files[i] for i in some) else 3


def _list_folders(top: Path) -> list[Path]:
    return [p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _list_classes(top: Path, levels: int) -> dict[str, Path]:
    """List the class folders ``levels`` below ``top``, by their path from there."""
    found = [top]
    for _ in range(levels):
        found = [inner for folder in found for inner in _list_folders(folder)]
    return {folder.relative_to(top).as_posix(): folder for folder in found}


def _find_split_folders(root: Path) -> dict[str, Path]:
    """Find the split folders, train first; none when the folders at the top are the classes."""
    found: dict[str, Path] = {}
    for folder in sorted(_list_folders(root)):
        split = _SPLITS.get(folder.name.lower())
        if split is None or not _list_folders(folder):
            continue  # without folders in it, a folder named `train` is a class: of vehicles, say
        if split in found:
            raise StillhouseError(
                f"two folders for the split {split!r}: {found[split].name} and {folder.name}", where=str(root)
            )
        found[split] = folder
    if found and "train" not in found:
        names = ", ".join(p.name for p in found.values())
        raise StillhouseError(f"needs a train folder beside {names}", where=str(root))
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _list_images(folder: Path, root: Path) -> list[tuple[str, int, int]]:
    """List (path below ``root``, bytes, time of change in ns) of every image under ``folder``, sorted by path."""
    found = []
    above = len(str(root)) + 1
    for here, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                path = Path(here, name)
                stat = path.stat()
                found.append((str(path)[above:], stat.st_size, stat.st_mtime_ns))
    return sorted(found)
