"""A part of a folder of images, read once into memory: so many images of each class to train on, and so many to test on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError
from stillhouse.errors import did_you_mean

__all__ = ["part"]


class Images(TensorDataset):
    """Images (N, C, H, W), bytes, and labels (N,), with the classes' names."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> None:
        super().__init__(images, labels)
        self.classes = list(classes)


def part(
    root: str,
    train: int,
    test: int,
    size: int,
    test_from: str = "test",
    classes: int | Sequence[str] | None = None,
) -> dict[str, Images]:
    """``ROOT/train/CLASS/*`` and ``ROOT/test/CLASS/*``, the first ones of each class by name.

    Args:
        root: the folder.
        train: images of each class to train on.
        test: images of each class to test on.
        size: height and width that they are resized to.
        test_from: the folder that test images come from; ``train``: those that follow the training images.
        classes: how many of the classes, the first ones by name; or which, in this order; None: all.

    Raises:
        StillhouseError: no such folder or class, too few classes, or too few images of a class.
    """
    top = Path(root).expanduser()
    if not (top / "train").is_dir():
        raise StillhouseError(f"there is no folder {top / 'train'}", where="data.args.root")
    found = sorted(p.name for p in (top / "train").iterdir() if p.is_dir())
    names = _choose(found, classes)
    skipped = train if test_from == "train" else 0
    wanted = {"train": ("train", 0, train), "test": (test_from, skipped, skipped + test)}
    made = {}
    for split, (folder, first, last) in wanted.items():
        images, labels = [], []
        for label, name in enumerate(names):
            files = sorted(p for p in (top / folder / name).iterdir() if p.is_file())
            if len(files) < last:
                raise StillhouseError(f"{top / folder / name} has {len(files)} images, and {last} are wanted")
            images += [_read(file, size) for file in files[first:last]]
            labels += [label] * (last - first)
        made[split] = Images(torch.stack(images), torch.tensor(labels), names)
    return made


def _choose(found: list[str], classes: int | Sequence[str] | None) -> list[str]:
    if not isinstance(classes, (int, type(None))):
        if unknown := [name for name in classes if name not in found]:
            hint = did_you_mean(unknown[0], found)
            raise StillhouseError(f"there is no class {unknown[0]!r}", where="data.args.classes", hint=hint)
        return list(classes)
    if classes is not None and not 1 < classes <= len(found):
        raise StillhouseError(f"must be from 2 to {len(found)}, got {classes}", where="data.args.classes")
    return found[:classes]


def _read(file: Path, size: int) -> torch.Tensor:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
