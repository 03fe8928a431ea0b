"""scikit-learn's digits under other labels: tasks at several distances on the same images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError

SPLITS = {"train": (0, 1197), "val": (1197, 1397), "test": (1397, 1797)}
"""Of one permutation of the images, the same for all labels."""


def digits(labels: str = "digit") -> dict[str, TensorDataset]:
    """The images (N, 1, 8, 8), 0 to 1, with their labels by split.

    Args:
        labels: ``digit``, 10 classes; ``pair``, 5: 0 or 1, 2 or 3, ...; ``parity``, 2; ``ink``, 4: quarters of how bright an
            image is; ``side``, 4: quarters of where its weight lies, left to right; ``noise``, 10, drawn at random;
            ``rotation``, 4: the image turned by so many quarters, which changes the images.

    Raises:
        StillhouseError: no such labels.
    """
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images, digit = found.images[order] / 16, found.target[order]
    columns = (images.sum(1) * np.arange(8)).sum(1) / images.sum((1, 2))
    drawn = np.random.default_rng(1)
    every = {
        "digit": digit,
        "pair": digit // 2,
        "parity": digit % 2,
        "ink": _quarters(images.mean((1, 2))),
        "side": _quarters(columns),
        "noise": drawn.integers(0, 10, len(digit)),
        "rotation": drawn.integers(0, 4, len(digit)),
    }
    if labels not in every:
        raise StillhouseError(f"there are no labels {labels!r}", where="data.args.labels", hint=", ".join(every))
    if labels == "rotation":
        images = np.stack([np.rot90(image, k) for image, k in zip(images, every[labels], strict=True)])
    x = torch.as_tensor(images.copy(), dtype=torch.float32)[:, None]
    y = torch.as_tensor(every[labels].astype(np.int64))
    return {split: TensorDataset(x[a:b], y[a:b]) for split, (a, b) in SPLITS.items()}


def _quarters(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.digitize(values, np.quantile(values, [0.25, 0.5, 0.75])).astype(np.int64)
