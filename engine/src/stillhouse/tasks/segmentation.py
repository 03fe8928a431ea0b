"""Semantic segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import ConfusionMatrix, Metric, MetricsLambda
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.tasks.class_weights import check_weights, get_weights, resolve_weights
from stillhouse.tasks.maps import check_ignored, get_class_name, is_map_of, require_map, resize_map
from stillhouse.tasks.measures import average_present, measure_loss
from stillhouse.tasks.own_pixels import Map, find_classes, list_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Segmentation"]

_LEAST = 1e-12
"""The least sum of weights that is divided by."""


@attrs.frozen(kw_only=True)
class Segmentation(Task):
    """Semantic segmentation: logits (B, classes, h, w) against class indices (B, H, W), cross-entropy.

    Logits of another size are brought to the mask's by bilinear interpolation. The loss is the mean over the pixels
    that are not ignored; a batch without any has the loss 0 and the gradient 0. A value of no class, which is refused where
    it is met before training, has the loss 0 later, and is left out of the metrics.

    Attributes:
        ignore_index: the mask's value for pixels that are left out, of loss, metrics and pictures alike: the data's
            ``ignore``.
        label_smoothing: share of the target spread evenly over the classes, 0 to below 1.
        class_weights: factors of the classes in the loss, by name: ``{ pedestrian = 5.0 }``, where the others have 1. The
            loss is divided by the sum of its pixels' factors. None: each pixel counts alike.
    """

    score: ClassVar[str] = "miou"
    takes: ClassVar[tuple[str, ...]] = ("mask",)
    takes_logits: ClassVar[bool] = True

    ignore_index: int = 255
    label_smoothing: float = 0.0
    class_weights: dict[str, float] | None = attrs.field(default=None, repr=False)  # no part of what a sample is

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise StillhouseError(f"must be in [0, 1), got {self.label_smoothing}", where="label_smoothing")
        check_weights(self.class_weights)

    def for_data(self, data: DataInfo) -> Self:
        """The task with a weight for each of the classes."""
        return attrs.evolve(self, class_weights=resolve_weights(self.class_weights, data))

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The image, and the mask (H, W) as int64."""
        return image, torch.as_tensor(target).long()

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not one logit for each class and pixel, and a mask with values of no class."""
        if data.classes < 2:
            raise StillhouseError(
                f"segmentation needs two classes at least, got {data.classes}",
                where="data.args.classes",
                hint='the background is one too: ["background", "cell"]',
            )
        check_ignored(data, self.ignore_index)
        require_map(output, data.classes, "segmentation")
        strange = sorted(set(targets.flatten().tolist()) - {self.ignore_index, *range(data.classes)})
        if strange:
            raise StillhouseError(
                f"mask values must be the classes 0 to {data.classes - 1}, got {strange[0]}",
                where="task.args.ignore_index",
                hint=f"args = {{ ignore_index = {strange[0]} }} leaves it out",
            )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, C, h, w) and a mask (B, H, W) over the pixels that are not ignored."""
        each, count = self._compute_by_pixel(output, targets)
        return each.sum() / count.clamp(min=1 if self.class_weights is None else _LEAST)

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over each mask's pixels (B,), and how many are not ignored in all."""
        each, count = self._compute_by_pixel(output, targets)
        return each.sum((1, 2)), count

    def _compute_by_pixel(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy of each pixel (B, H, W), 0 for those of no class, and what :meth:`count` counts."""
        logits = resize_map(output, targets.shape[-2:])
        kept = self._find_kept(targets, logits.shape[1])
        # Without torch's own mean: on CUDA it adds atomically, in any order, and it is NaN where nothing counts.
        each = F.cross_entropy(
            logits,
            torch.where(kept, targets, -1),
            weight=get_weights(self.class_weights, logits),
            ignore_index=-1,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        return each, self.count(targets)

    def _find_kept(self, targets: Tensor, classes: int) -> Tensor:
        """Return a mask (B, H, W) of the pixels that count."""
        return (targets >= 0) & (targets < classes) & (targets != self.ignore_index)

    def count(self, targets: Tensor) -> Tensor:
        """The pixels that are not ignored, each with its class's weight; a value of no class among them, which :meth:`loss` gives a loss of 0.

        By the masks alone, so that the loss of a split, of a batch in parts and of several processes is one and the same.
        """
        counts = targets != self.ignore_index
        weights = get_weights(self.class_weights, targets)
        if weights is None:
            return counts.sum()
        known = self._find_kept(targets, len(weights))
        return (torch.where(known, weights[torch.where(known, targets, 0)], 1.0) * counts).sum()

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Over all pixels of the split that count, from one confusion matrix.

        ``miou`` is the mean over the classes of intersection by union, ``iou`` the same by class, ``accuracy`` the
        share of pixels that are right, ``class_accuracy`` the mean over the classes of that share. A class that
        neither mask nor prediction has is left out of the means and NaN by class.
        """

        def logits_and_labels(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
            targets = state["target"]
            kept = self._find_kept(targets, data.classes)
            return resize_map(state["output"], targets.shape[-2:]), torch.where(kept, targets, -1)

        matrix = ConfusionMatrix(data.classes, output_transform=logits_and_labels)
        return {
            "miou": MetricsLambda(lambda m: average_present(_iou(m), "pixels"), matrix),
            "iou": MetricsLambda(_iou, matrix),
            "accuracy": MetricsLambda(lambda m: m.diag().sum() / m.sum(), matrix),
            "class_accuracy": MetricsLambda(lambda m: average_present(m.diag() / m.sum(1), "pixels"), matrix),
            "loss": measure_loss(self),
        }

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """Input, mask, the student's and the teacher's, in the classes' colours, and in red where the student is wrong.

        Ignored pixels are black.
        """
        from stillhouse.tasks.pictures import Panel, draw, unnormalise

        found = resize_map(output, targets.shape[-2:]).argmax(1)
        kept = self._find_kept(targets, data.classes)
        masks = {"target": torch.where(kept, targets, -1), "student": found}
        if is_map_of(teacher, output):
            masks["teacher"] = resize_map(teacher, targets.shape[-2:]).argmax(1)
        wrong = kept & (found != targets)
        red, grey = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.9, 0.9, 0.9])
        shown = torch.where(wrong[..., None], red, grey * kept[..., None]).movedim(-1, 1)  # (B, 3, H, W)
        rows = [
            [
                Panel("input", unnormalise(x, data)),
                *(Panel(name, mask[i], classes=data.class_names) for name, mask in masks.items()),
                Panel("wrong", shown[i]),
            ]
            for i, x in enumerate(inputs)
        ]
        return {"samples": draw(rows)}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "logits (B, classes, h, w): softmax over the classes gives probabilities, argmax the class of a pixel"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """The share of the pixels that each class takes, the greatest first; ``output`` is (C, h, w)."""
        pixels = output.argmax(0).flatten()
        shares = torch.bincount(pixels, minlength=output.shape[0]).double() / pixels.numel()
        order = [i for i in shares.argsort(descending=True, stable=True).tolist() if shares[i] > 0]
        return {"classes": [{"class": get_class_name(data, i), "share": round(float(shares[i]), 4)} for i in order]}

    def map_of(self, data: DataInfo, output: Tensor, size: tuple[int, int]) -> Map:
        """The class of each pixel (H, W) by its index; ``output`` is (C, h, w)."""
        return Map(find_classes(output, size), f"the class of each pixel: {list_values(data, output.shape[0])}")

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image:
        """The image beside its classes."""
        from stillhouse.tasks.pictures import Panel, draw, to_picture

        found = resize_map(output[None], image.shape[-2:])[0].argmax(0)
        return to_picture(draw([[Panel("input", image), Panel("prediction", found, classes=data.class_names)]]))


def _iou(matrix: Tensor) -> Tensor:
    """Intersection by union of each class (C,) from a confusion matrix (C, C); NaN where the union is empty."""
    hits = matrix.diag().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - hits)
