"""COCO's average precision of detectors, by ignite, with its values by class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from ignite.metrics import ObjectDetectionAvgPrecisionRecall
from torch import Tensor

__all__ = ["make_average_precision"]

Boxes = dict[str, Tensor]


def make_average_precision(
    outputs: int, thresholds: Sequence[float] | None = None
) -> ObjectDetectionAvgPrecisionRecall:
    """Make the metric, whose value is (average precision, recall, average precision by label from 1 on).

    Args:
        outputs: the classes and the background.
        thresholds: of the IoU; None: 0.5, 0.55, ..., 0.95.
    """
    # Not unrolled: otherwise ignite takes two lists for the outputs and targets of several heads.
    given: dict[str, Any] = {"num_classes": outputs, "output_transform": _to_coco, "skip_unrolling": True}
    return _AveragePrecision(iou_thresholds=thresholds, **given)


class _AveragePrecision(ObjectDetectionAvgPrecisionRecall):
    """ignite's metric with its values by class, without torch's warning about the way ignite slices what it gathered."""

    _result: tuple[float, float, Tensor] | None = None
    """The computed result, which several metrics read; ignite empties it when samples are added."""

    def compute(self) -> tuple[float, float, Tensor]:  # type: ignore[override]  # one more than ignite's
        """Average precision, recall, and the average precision of each label from 1 on (classes,); NaN without a box."""
        if self._result is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Using a non-tuple sequence for multidimensional indexing")
                found = self._compute()  # (2, labels, thresholds); -1 for labels that the split has no box of
            precision, recall = found.where(found >= 0, math.nan)
            self._result = (float(precision.nanmean()), float(recall.nanmean()), precision[1:].mean(1))
        return self._result


def _to_coco(state: dict[str, Any]) -> tuple[list[Boxes], list[Boxes]]:
    """Predictions and targets under the keys that ignite's metric reads."""
    found = [{"bbox": o["boxes"], "labels": o["labels"], "scores": o["scores"]} for o in state["output"]]
    return found, [{"bbox": t["boxes"], "labels": t["labels"]} for t in state["target"]]
