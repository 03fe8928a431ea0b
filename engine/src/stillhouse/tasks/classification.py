"""Single-label classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import attrs
import torch.nn.functional as F
from ignite.metrics import Accuracy, Loss, Metric, TopKCategoricalAccuracy
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.tasks.class_weights import ClassWeights, check_weights, get_weights, resolve_weights
from stillhouse.tasks.focal import compute_focal_loss
from stillhouse.tasks.maps import get_class_name
from stillhouse.tasks.measures import measure_recall
from stillhouse.tasks.measures_by_class import measure_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Classification"]


_TOP = 5
_GREATEST_FOCAL = 100.0
_LEAST = 1e-12


def _select_float32(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return state["output"].float(), state["target"]


def select_output_and_target(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return state["output"], state["target"]


@attrs.frozen(kw_only=True)
class Classification(Task):
    """Single-label classification: logits (B, C) against class indices (B,), cross-entropy.

    Attributes:
        label_smoothing: share of the target spread evenly over the classes, 0 to 1.
        class_weights: factors of the classes in the loss: ``balanced``, by the training samples' numbers, so that each
            class counts alike, or a table by their names, ``{ cat = 2.0 }``, where the others have 1. The loss is divided by
            the sum of the batch's factors; the metric ``loss`` has none. None: each sample counts alike.
        focal: the exponent of the focal loss (Lin et al., 2017): a sample's loss is multiplied by (1 - p)^focal, p being
            the probability of its class, so that what is known already counts less; 2 is usual, 0 is cross-entropy.
        measure: further metrics, each also by class: ``f1`` and ``precision``, means over the classes;
            ``balanced_accuracy``, the mean of the classes' recall; ``auroc``, the mean over the classes of the area under the
            ROC curve of one against the rest.
    """

    score: ClassVar[str] = "accuracy"
    takes_logits: ClassVar[bool] = True

    label_smoothing: float = 0.0
    class_weights: ClassWeights | None = None
    focal: float = 0.0
    measure: tuple[Literal["f1", "precision", "balanced_accuracy", "auroc"], ...] = ()

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise StillhouseError(f"must be in [0, 1], got {self.label_smoothing}", where="label_smoothing")
        if not 0.0 <= self.focal <= _GREATEST_FOCAL:
            raise StillhouseError(f"must be in [0, {_GREATEST_FOCAL:g}], got {self.focal}", where="focal")
        check_weights(self.class_weights)

    def for_data(self, data: DataInfo) -> Self:
        """The task with its classes' weights as numbers.

        Raises:
            StillhouseError: there are fewer than two classes.
        """
        if data.classes < 2:
            told = "".join(f", {name!r}" for name in data.class_names)
            raise StillhouseError(
                f"classification needs two classes at least, got {data.classes}{told}",
                where="data",
                hint='of one class nothing can be told apart; without labels images serve [task] name = "distillation"',
            )
        return attrs.evolve(self, class_weights=resolve_weights(self.class_weights, data))

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
        if not self.focal and self.class_weights is None:  # what nearly every step asks for
            if targets.is_floating_point():
                output, targets = self._prepare(output, targets)
            return F.cross_entropy(output.float(), targets, label_smoothing=self.label_smoothing)
        if not self.focal and targets.is_floating_point():
            return F.cross_entropy(*self._prepare(output, targets), **self._options(output))
        each, total = self.loss_by_sample(output, targets)
        return each.mean() if total is None else each.sum() / total.clamp(min=_LEAST)

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """The cross-entropy of each sample (B,), times its class's weight, and the sum of these weights."""
        logits, targets = self._prepare(output, targets)
        if self.focal:
            each = compute_focal_loss(logits, targets, self.focal, **self._options(output))
        else:
            each = F.cross_entropy(logits, targets, reduction="none", **self._options(output))
        return each, self.count(targets)

    def count(self, targets: Tensor) -> Tensor | None:
        """The sum of the samples' weights; None where they have none, and for targets that are mixed."""
        weights = None if targets.is_floating_point() else get_weights(self.class_weights, targets)
        return None if weights is None else weights[targets].sum()

    def _options(self, output: Tensor) -> dict[str, Any]:
        return {"weight": get_weights(self.class_weights, output), "label_smoothing": self.label_smoothing}

    def _prepare(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if targets.is_floating_point() and targets.shape[1] < output.shape[1]:
            targets = F.pad(targets, (0, output.shape[1] - targets.shape[1]))
        return output.float(), targets

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Accuracy, cross-entropy, with more than five classes top-5 accuracy, and what ``measure`` names.

        By class: ``recall``, the share of the class's samples found. Of ``measure``, metrics by class are called
        ``f1_by_class`` and so on; a class that the split does not have is left out of means and NaN by class.
        """
        found: dict[str, Metric] = {"accuracy": Accuracy(select_output_and_target)}
        if data.classes > _TOP:
            found["top5"] = TopKCategoricalAccuracy(_TOP, select_output_and_target)
        found |= {"loss": Loss(F.cross_entropy, _select_float32), "recall": measure_recall(data)}
        return found | measure_by_class(self.measure, data)

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """The samples, each with its class, and those that student and teacher find, with their probabilities."""
        from stillhouse.tasks.pictures import draw_samples, is_picture

        if not is_picture(inputs):
            return {}
        told = {"student": output}
        if isinstance(teacher, Tensor) and teacher.shape == output.shape:
            told["teacher"] = teacher
        titles = [
            "\n".join(
                [
                    f"true: {get_class_name(data, t)}",
                    *(f"{who}: {self._tell_best(data, logits[i])}" for who, logits in told.items()),
                ]
            )
            for i, t in enumerate(targets.tolist())
        ]
        return {"samples": draw_samples(inputs, titles, data)}

    def _tell_best(self, data: DataInfo, logits: Tensor) -> str:
        best = self.prediction(data, logits)["top"][0]
        return f"{best['class']} {best['probability']:.0%}"

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
