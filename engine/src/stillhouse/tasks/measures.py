"""Building blocks of the tasks' metrics: sums over a split, in float64, and functions of such sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric, MetricsLambda, VariableAccumulation
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError

__all__ = [
    "AveragePrecision",
    "RankedByClass",
    "average_present",
    "derive_metric",
    "measure_loss",
    "measure_recall",
    "sum_over_split",
]


def sum_over_split(of: Callable[[dict[str, Any]], Tensor]) -> Metric:
    """The sum of ``of(state)`` over a split's batches, all processes together; ignite's VariableAccumulation.

    Args:
        of: from ``{"output": ..., "target": ..., "input": ...}`` to a vector (K,) of one batch's sums.

    Returns:
        A metric to be read through :func:`derive_metric`.
    """
    return VariableAccumulation(lambda total, batch: total + batch, output_transform=lambda state: of(state).double())


def derive_metric(function: Callable[[Tensor], Tensor], sums: Metric) -> Metric:
    """A metric that is a function of what :func:`sum_over_split` gives, a vector (K,), float64."""
    return MetricsLambda(lambda found: function(found[0]), sums)


def measure_loss(task: Task) -> Metric:
    """Measure the task's loss over a split: each batch's weighted by its :meth:`Task.count`."""

    def of(state: dict[str, Any]) -> Tensor:
        targets = state["target"]
        loss = task.loss(state["output"], targets)
        count = task.count(targets)
        n = torch.as_tensor(len(targets) if count is None else count, device=loss.device, dtype=torch.float64)
        return torch.stack([torch.where(n > 0, loss.double() * n, 0.0), n])  # the mean of nothing may be NaN

    return derive_metric(lambda sums: sums[0] / sums[1].clamp(min=1e-12), sum_over_split(of))  # weights may be small


def measure_recall(data: DataInfo) -> Metric:
    """Measure recall by class, a vector (classes,); NaN for a class without samples."""
    classes = data.classes

    def of(state: dict[str, Any]) -> Tensor:
        output, target = state["output"], state["target"]
        right = (output.argmax(1) == target).double()
        zeros = torch.zeros(classes, dtype=torch.float64, device=target.device)
        return torch.stack([zeros.index_add(0, target, right), zeros.index_add(0, target, torch.ones_like(right))])

    return derive_metric(lambda sums: sums[0] / sums[1], sum_over_split(of))


class RankedByClass(Metric):
    """A measure of how each class's scores rank over a split, a vector (classes,).

    All scores are kept, and with several processes gathered. (ignite's own gives 0 for a class without a label, and its
    gathering does not outlive torch's deprecation of what it indexes with.)

    Args:
        measure: from labels (N,), 0 or 1, and scores (N,) of one class, as arrays, to a number; NaN where there is none.
        output_transform: from the evaluator's output to scores (B, classes) and labels (B, classes), 0 or 1.
    """

    def __init__(
        self,
        measure: Callable[[Any, Any], float],
        output_transform: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
    ) -> None:
        self._measure = measure
        super().__init__(output_transform=output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        """See ignite's Metric."""
        self._kept: list[tuple[Any, Any]] = []

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """See ignite's Metric."""
        self._kept.append((output[0].float().cpu().numpy(), output[1].cpu().numpy()))

    def compute(self) -> Tensor:
        """See ignite's Metric."""
        shares: Any = idist.all_gather(self._kept) if idist.get_world_size() > 1 else [self._kept]
        kept = [pair for share in shares for pair in share]
        if not kept:
            raise NotComputableError("no samples")
        scores, labels = (np.concatenate(part) for part in zip(*kept, strict=True))
        values = [self._measure(y, x) for x, y in zip(scores.T, labels.T, strict=True)]
        return torch.tensor(values, dtype=torch.float64)


class AveragePrecision(RankedByClass):
    """The average precision of each class over a split, a vector (classes,), by scikit-learn; NaN where no label is 1.

    It is the sum over the ranking of precision times gain in recall, without interpolation.

    Args:
        output_transform: from the evaluator's output to scores (B, classes) and labels (B, classes), 0 or 1.
    """

    def __init__(self, output_transform: Callable[[dict[str, Any]], tuple[Tensor, Tensor]]) -> None:
        super().__init__(_compute_average_precision, output_transform)


def _compute_average_precision(labels: Any, scores: Any) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if labels.any() else float("nan")


def average_present(values: Tensor, what: str) -> Tensor:
    """Average the ``values`` (K,) that are not NaN: classes without samples in the split are left out.

    Raises:
        StillhouseError: all are NaN.
    """
    if bool(values.isnan().all()):
        raise StillhouseError(f"a split must have {what} to measure on, got none", where="data")
    return values.nanmean()
