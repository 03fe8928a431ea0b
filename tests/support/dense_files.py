"""Folders of generated images with masks or depths, for tests of dense data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.data import Data, DataSpec, load_data

MASKS: dict[str, Any] = {
    "images": "{split}/*.png",
    "labels": "{split}annot/*.png",
    "target": "mask",
    "classes": ["sky", "road", "car"],
    "ignore": 11,
}
DEPTHS: dict[str, Any] = {
    "images": "*.color.png",
    "labels": "*.depth.png",
    "target": "depth",
    "scale": 0.001,
    "holes": [0, 65535],
}


def load(name: str, seed: int = 0, task: Any = None, **options: Any) -> Data:
    """The data of a spec."""
    return load_data(DataSpec(name=name, **options), task, seed=seed)


def save(path: Path, array: NDArray[Any]) -> Path:
    """``array`` as an image file: (H, W) uint8 or uint16, or (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def scene(seed: int, size: tuple[int, int] = (10, 12)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (H, W, 3) whose red channel is 20 times the class of its mask (H, W), with classes 0 to 2 and 11."""
    generator = np.random.default_rng(seed)
    mask = generator.choice(np.array([0, 1, 2, 11], dtype=np.uint8), size)
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[..., 0] = mask * 20
    return image, mask


def masked(root: Path, n: int = 6, splits: tuple[str, ...] = ("train", "val", "test"), **options: Any) -> str:
    """A folder of scenes with their masks; the data's name."""
    for s, split in enumerate(splits):
        for k in range(n):
            image, mask = scene(100 * s + k, **options)
            save(root / split / f"{k:03}.png", image)
            save(root / f"{split}annot" / f"{k:03}.png", mask)
    return f"pairs:{root}"


def ranged(root: Path, n: int = 20, size: tuple[int, int] = (8, 10)) -> str:
    """A folder of images with 16-bit depths in millimetres, 0 and 65535 among them; red is depth / 100. The data's name."""
    for k in range(n):
        generator = np.random.default_rng(k)
        depth = generator.integers(8, 40, size).astype(np.uint16) * 100
        depth[generator.random(size) < 0.2] = 0
        depth[generator.random(size) < 0.1] = 65535
        image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        image[..., 0] = np.where(depth == 65535, 0, depth) // 100
        save(root / f"frame-{k:04}.color.png", image)
        save(root / f"frame-{k:04}.depth.png", depth)
    return f"pairs:{root}"
