"""Metrics of a classifier that look at the classes one by one, so that a rare one counts as much as a common one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.metrics import ConfusionMatrix, Metric, MetricsLambda
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.tasks.measures import RankedByClass, average_present

__all__ = ["measure_by_class"]


def measure_by_class(names: Sequence[str], data: DataInfo) -> dict[str, Metric]:
    """The metrics ``names``, each with its mean over the classes of the split and as a vector (classes,).

    Counts come from ignite's confusion matrix and areas from scikit-learn, of all processes' samples together. Model outputs
    past the data's classes are left out of both.

    Args:
        names: of ``f1``, ``precision``, ``balanced_accuracy``, ``auroc``.
        data: whose classes.
    """
    classes = data.classes
    found: dict[str, Metric] = {}
    matrix = ConfusionMatrix(classes, output_transform=lambda state: (state["output"][:, :classes], state["target"]))
    for name in names:
        if name == "auroc":
            vector: Metric = RankedByClass(_compute_auroc, lambda state: _score(state, classes))
        else:
            vector = MetricsLambda(_OF_MATRIX[name], matrix)
        found[name] = MetricsLambda(lambda values: average_present(values, "two classes"), vector)
        found[f"{name}_by_class"] = vector
    return found


def _score(state: dict[str, Any], classes: int) -> tuple[Tensor, Tensor]:
    """Probabilities (B, classes), and which class it is (B, classes), 0 or 1."""
    target = torch.nn.functional.one_hot(state["target"], classes)
    return state["output"].float().softmax(1)[:, :classes], target


def _compute_auroc(labels: Any, scores: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float("nan") if labels.all() or not labels.any() else float(roc_auc_score(labels, scores))


def _compute_recall(matrix: Tensor) -> Tensor:
    """The matrix has true classes in rows; NaN for a class without a sample."""
    right, true = matrix.diagonal().double(), matrix.sum(1).double()
    return right / true


def _compute_precision(matrix: Tensor) -> Tensor:
    """Of a class that is there and never said, 0, as scikit-learn has it; NaN for one that is not there."""
    right, said = matrix.diagonal().double(), matrix.sum(0).double()
    return torch.where(matrix.sum(1) > 0, right / said.clamp(min=1), torch.nan)


def _compute_f1(matrix: Tensor) -> Tensor:
    right, both = matrix.diagonal().double(), (matrix.sum(0) + matrix.sum(1)).double()
    return torch.where(matrix.sum(1) > 0, 2 * right / both.clamp(min=1), torch.nan)


_OF_MATRIX: dict[str, Callable[[Tensor], Tensor]] = {
    "f1": _compute_f1,
    "precision": _compute_precision,
    "balanced_accuracy": _compute_recall,
}
