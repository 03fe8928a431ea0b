"""A linear probe on a teacher's cached features: multinomial logistic regression."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from stillhouse import StillhouseError

__all__ = ["MOST_ROWS", "fit_probe", "select_by_probe"]

MOST_ROWS = 20_000
"""A probe is fitted on at most so many samples, evenly spaced."""

_ABSENT = 10.0
"""Distance of the bias of a class without samples below the others'."""


def fit_probe(features: Tensor, labels: NDArray[np.int64], outputs: int) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression with an L2 penalty (C = 1): weight (outputs, d) and bias (outputs,), float32.

    Args:
        features: (N, d); scaled, so that the penalty means the same for every teacher.
        labels: (N,).
        outputs: the number of logits; classes that ``labels`` lack get no weight and a low bias.

    Raises:
        StillhouseError: there is one class only.
    """
    if len(np.unique(labels)) < 2:
        raise StillhouseError("a probe needs samples of at least two classes", where="data")
    model = LogisticRegression(C=1.0, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is nearly there serves as well
        warnings.filterwarnings("ignore", "The number of unique classes")  # one label a class is what few-shot means
        model.fit(features.double().numpy(), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn gives one row, for the second class against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = torch.zeros(outputs, features.shape[1])
    bias = torch.full((outputs,), float(intercepts.min()) - _ABSENT)
    rows = torch.from_numpy(model.classes_)
    weight[rows], bias[rows] = torch.from_numpy(coefficients).float(), torch.from_numpy(intercepts).float()
    return weight, bias


def select_by_probe(features: Tensor, labels: NDArray[np.int64], outputs: int, counts: list[int]) -> Tensor:
    """Select dimensions by probes that drop the least used ones round by round: a mask (d,) of 1 and 0.

    A dimension's score is the sum over the classes of |w| times its standard deviation.

    Args:
        features: (N, d).
        labels: (N,).
        outputs: logits.
        counts: the number of live dimensions after each round.
    """
    live = torch.arange(features.shape[1])
    for count in counts:
        weight, _ = fit_probe(features[:, live], labels, outputs)
        scores = weight.abs().sum(0) * features[:, live].std(0)
        live = live[scores.argsort(descending=True, stable=True)[:count].sort().values]
    mask = torch.zeros(features.shape[1])
    mask[live] = 1.0
    return mask
