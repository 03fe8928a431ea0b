"""What vectors know of classes that they were not trained on: by their neighbours, by a linear probe, and their rank."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["measure_nearest_neighbours", "measure_probe", "measure_rank", "to_vectors"]

_CHUNK = 1024
_PROBED = 2000
"""A probe is fitted on at most so many samples, evenly spaced."""
_FOLDS = 5


def to_vectors(x: Tensor) -> Tensor:
    """Vectors (B, C), float32, of vectors, tokens (B, N, C) or maps (B, C, H, W): the mean over positions."""
    x = x.float()
    return x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2) if x.ndim > 3 else x


def measure_nearest_neighbours(vectors: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples (N, D) whose class (N,) most of their ``k`` nearest other samples by cosine have.

    Of classes with equally many the first one wins. Where there are fewer than ``k`` other samples, all are asked; NaN
    where there is none. A sample whose label is -1 has none: it is neither counted nor asked.
    """
    vectors, labels = vectors[labels >= 0], labels[labels >= 0]
    z, k = F.normalize(vectors.float(), dim=1), min(k, len(vectors) - 1)
    if k < 1:
        return float("nan")
    classes, right = int(labels.max()) + 1, 0
    for start in range(0, len(z), _CHUNK):  # in pieces: N x N similarities need not fit into memory
        similar = z[start : start + _CHUNK] @ z.T
        rows = torch.arange(len(similar), device=z.device)
        similar[rows, rows + start] = -2.0
        votes = F.one_hot(labels[similar.topk(k, dim=1).indices], classes).sum(1)
        first = (votes * classes - torch.arange(classes, device=z.device)).argmax(1)
        right += int((first == labels[start : start + _CHUNK]).sum())
    return right / len(z)


def measure_probe(vectors: Tensor, labels: Tensor) -> float:
    """Accuracy of a logistic regression on standardised vectors (N, D), each fifth of the samples told by the other four.

    NaN where a class has a single sample, or there is one class. Of more than 2,000 samples as many are taken, evenly
    spaced; those whose label is -1 are left out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = (labels >= 0).nonzero().flatten().cpu().numpy()
    rows = known[np.linspace(0, len(known) - 1, min(len(known), _PROBED)).astype(np.int64)]
    x, y = vectors[rows].double().cpu().numpy(), labels[rows].cpu().numpy()
    _, counts = np.unique(y, return_counts=True)
    folds = min(_FOLDS, int(counts.min(initial=_FOLDS)))
    if len(counts) < 2 or folds < 2:
        return float("nan")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is nearly there serves as well
        scores = cross_val_score(model, x, y, cv=StratifiedKFold(folds, shuffle=True, random_state=0))
    return float(scores.mean())


def measure_rank(vectors: Tensor, _labels: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred vectors (N, D) (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals((vectors - vectors.mean(0)).double())
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))
