"""Single-label classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import Accuracy, Loss, Metric, TopKCategoricalAccuracy
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.tasks.maps import get_class_name
from stillhouse.tasks.measures import measure_recall

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Classification"]


def select_output_and_target(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return state["output"], state["target"]


@attrs.frozen(kw_only=True)
class Classification(Task):
    """Single-label classification: logits (B, C) against class indices (B,), cross-entropy.

    Attributes:
        label_smoothing: share of the target spread evenly over the classes, 0 to 1.
    """

    score: ClassVar[str] = "accuracy"
    takes_logits: ClassVar[bool] = True

    label_smoothing: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise StillhouseError(f"must be in [0, 1], got {self.label_smoothing}", where="label_smoothing")

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not logits (B, classes)."""
        if not isinstance(output, Tensor):
            raise StillhouseError(
                f"classification needs logits (B, classes), got {type(output).__name__}",
                where="student",
                hint="wrap the model in one whose forward returns the logits",
            )
        if output.ndim != 2:
            raise StillhouseError(
                f"classification needs logits (B, classes), got {format_shape(output)}", where="student"
            )
        if output.shape[1] < data.classes:
            raise StillhouseError(
                f"needs one logit for each of the data's {data.classes} classes, got {output.shape[1]}",
                where="student",
                hint=f"student.args = {{ num_classes = {data.classes} }}",
            )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, C) and indices (B,), or probabilities (B, c) of the first c <= C classes."""
        return self._compute_cross_entropy(output, targets, "mean")

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        """The cross-entropy of each sample (B,)."""
        return self._compute_cross_entropy(output, targets, "none"), None

    def _compute_cross_entropy(self, output: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if targets.is_floating_point() and targets.shape[1] < output.shape[1]:
            targets = F.pad(targets, (0, output.shape[1] - targets.shape[1]))
        return F.cross_entropy(output.float(), targets, label_smoothing=self.label_smoothing, reduction=reduction)

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Accuracy, top-5 accuracy and cross-entropy; by class ``recall``, the share of the class's samples found."""
        return {
            "accuracy": Accuracy(select_output_and_target),
            "top5": TopKCategoricalAccuracy(5, _clip_for_top5),
            "loss": Loss(F.cross_entropy, select_output_and_target),
            "recall": measure_recall(data),
        }

    def figures(self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor) -> dict[str, Figure]:
        """The samples, each with the class found, its probability, and the true class."""
        from stillhouse.tasks.pictures import Panel, draw, is_picture, unnormalise

        if not is_picture(inputs):
            return {}
        panels = []
        for x, logits, t in zip(inputs, output, targets.tolist(), strict=True):
            best = self.prediction(data, logits)["top"][0]
            found = f"predicted: {best['class']} ({best['probability']:.0%})"
            panels.append(Panel(f"{found}\ntrue: {get_class_name(data, t)}", unnormalise(x, data)))
        return {"samples": draw([panels[i : i + 2] for i in range(0, len(panels), 2)])}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "logits (B, classes): softmax gives probabilities"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """The class, and the five most probable with their probabilities; ``output`` is (C,)."""
        top = output.float().softmax(0).sort(descending=True, stable=True)
        ranked = [
            {"class": get_class_name(data, i), "probability": round(p, 4)}
            for p, i in zip(top.values[:5].tolist(), top.indices[:5].tolist(), strict=True)
        ]
        return {"class": ranked[0]["class"], "top": ranked}

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image | None:
        """The image beside bars of the five most probable classes; None for inputs that are no images."""
        from stillhouse.tasks.pictures import draw_bars, is_picture, to_picture

        if not is_picture(image[None]):
            return None
        ranked = self.prediction(data, output)["top"]
        return to_picture(draw_bars(image, [(r["class"], r["probability"]) for r in ranked], "probability", 1.0))


def _clip_for_top5(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output = state["output"]
    missing = 5 - output.shape[1]  # fewer than five classes: pad with what is never chosen, so that top-5 is 1
    if missing > 0:
        output = F.pad(output, (0, missing), value=torch.finfo(output.dtype).min)
    return output, state["target"]
