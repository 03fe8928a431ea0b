"""Single-label classification."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import Accuracy, Loss, Metric, TopKCategoricalAccuracy
from torch import Tensor

from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.layout import shape_text
from stillhouse.tasks.base import Task

__all__ = ["Classification"]


def _output_and_target(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return state["output"], state["target"]


@attrs.frozen(kw_only=True)
class Classification(Task):
    """Single-label classification: logits (B, C) against class indices (B,), cross-entropy.

    Attributes:
        label_smoothing: share of the target spread evenly over the classes, 0 to 1.
    """

    score: ClassVar[str] = "accuracy"

    label_smoothing: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise StillhouseError(f"{self.label_smoothing} is outside 0 to 1", where="label_smoothing")

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not logits (B, classes)."""
        if not isinstance(output, Tensor):
            raise StillhouseError(
                f"gives {type(output).__name__}, and classification needs logits (B, classes)",
                hint="wrap the model in one whose forward returns the logits",
            )
        if output.ndim != 2:
            raise StillhouseError(f"gives {shape_text(output)}, and classification needs logits (B, classes)")
        if output.shape[1] < data.classes:
            raise StillhouseError(
                f"gives {output.shape[1]} logits, and the data has {data.classes} classes",
                hint=f"args = {{ num_classes = {data.classes} }}",
            )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, C) and indices (B,)."""
        return F.cross_entropy(output.float(), targets, label_smoothing=self.label_smoothing)

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Accuracy, top-5 accuracy and cross-entropy."""
        return {
            "accuracy": Accuracy(_output_and_target),
            "top5": TopKCategoricalAccuracy(5, _clipped_for_top5),
            "loss": Loss(F.cross_entropy, _output_and_target),
        }


def _clipped_for_top5(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output = state["output"]
    missing = 5 - output.shape[1]  # fewer than five classes: pad with what is never chosen, so that top-5 is 1
    if missing > 0:
        output = F.pad(output, (0, missing), value=torch.finfo(output.dtype).min)
    return output, state["target"]
