"""Omniglot's handwritten characters as one classification: so many drawings of each character to train on, the rest to test on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stillhouse import StillhouseError
from stillhouse_experiments.recipes.part_of_folder import Images

__all__ = ["characters"]


def characters(root: str, folder: str, train: int, size: int, leave_out: Sequence[str] = ()) -> dict[str, Images]:
    """``ROOT/FOLDER/ALPHABET/CHARACTER/*.png`` as images (N, 1, size, size), ink 255 on 0, a class for each character.

    A character's drawings are by twenty people, named in their order: those after the first ``train`` are by people whose
    hand no training image shows.

    Args:
        root: where Omniglot's sets are.
        folder: a set of them.
        train: drawings of each character to train on.
        size: height and width that the drawings are resized to.
        leave_out: alphabets that are not read.

    Raises:
        StillhouseError: no such folder, or too few drawings of a character.
    """
    top = Path(root).expanduser() / folder
    if not top.is_dir():
        raise StillhouseError(f"there is no folder {top}", where="data.args.root")
    found = sorted(p for p in top.glob("*/*") if p.is_dir() and p.parent.name not in leave_out)
    images: dict[str, list[torch.Tensor]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for label, character in enumerate(found):
        files = sorted(character.glob("*.png"))
        if len(files) <= train:
            raise StillhouseError(f"{character} has {len(files)} drawings, and {train} and some to test on are wanted")
        for place, file in enumerate(files):
            split = "train" if place < train else "test"
            images[split].append(_read(file, size))
            labels[split].append(label)
    names = [f"{p.parent.name}/{p.name}" for p in found]
    return {split: Images(torch.stack(images[split]), torch.tensor(labels[split]), names) for split in images}


def _read(file: Path, size: int) -> torch.Tensor:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("L").resize((size, size), Image.Resampling.BOX))
    return 255 - torch.from_numpy(pixels.copy()).unsqueeze(0)
