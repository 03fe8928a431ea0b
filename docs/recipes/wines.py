"""scikit-learn's wines: twelve measurements of each, and two questions about it."""

from __future__ import annotations

import torch
from sklearn.datasets import load_wine
from torch import Tensor
from torch.utils.data import TensorDataset

__all__ = ["strength", "vineyard"]


def vineyard() -> dict[str, TensorDataset]:
    """Which of three vineyards a wine is from."""
    return _split(torch.from_numpy(load_wine().target))


def strength() -> dict[str, TensorDataset]:
    """Whether a wine has more alcohol than the mean of all."""
    alcohol = torch.from_numpy(load_wine().data[:, 0])
    return _split((alcohol > alcohol.mean()).long())


def _split(labels: Tensor) -> dict[str, TensorDataset]:
    """All measurements but the alcohol, standardised; each third wine is tested on."""
    x = torch.from_numpy(load_wine().data[:, 1:]).float()
    x = (x - x.mean(0)) / x.std(0)
    tested = torch.arange(len(x)) % 3 == 0
    return {"train": TensorDataset(x[~tested], labels[~tested]), "test": TensorDataset(x[tested], labels[tested])}
