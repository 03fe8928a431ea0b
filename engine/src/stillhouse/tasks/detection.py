"""Object detection with models that are called as torchvision's are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np
import torch
from ignite.metrics import Metric
from torch import Tensor, nn

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Program, Task
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.nested import PartlyLabelled
from stillhouse.tasks.average_precision import make_average_precision
from stillhouse.tasks.detectors import is_detector
from stillhouse.tasks.foreground import compute_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Detection", "find_boxes"]

Boxes = dict[str, Tensor]


@attrs.frozen(kw_only=True)
class Detection(Task):
    """Object detection: boxes (N, 4) in pixels as x1, y1, x2, y2 with labels (N,) for each image.

    The model is called as torchvision's detection models are: a list of images (C, H, W) and, in training, a list of
    ``{boxes, labels}``. In training it returns a dict of losses, whose sum is the task's; in eval mode a list of
    ``{boxes, labels, scores}``. Label 0 is the background: classes count from 1, and the model gets one output more
    than there are classes. A model whose ``forward`` has no parameter ``targets``, such as a classifier that is the
    teacher, is called with the batch as it is.

    torchvision's models normalise their inputs themselves: ``[data] normalize = "none"``.

    Attributes:
        classes: for data with masks: which classes are objects, as a table from name to index in the mask. Each connected
            piece of one of them gets the box around it. Empty for data with boxes: all of its classes.
        min_area: connected pieces of fewer pixels are no objects.
        min_score: boxes of a lower score are left out of predictions and pictures; metrics take all of them.
    """

    score: ClassVar[str] = "map"
    one_output: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("boxes", "mask")
    calls_labelled: ClassVar[bool] = True

    classes: dict[str, int] = attrs.field(factory=dict)
    min_area: int = 16
    min_score: float = 0.5

    def __attrs_post_init__(self) -> None:
        faults = [
            Fault(f"classes.{name}", f"must be >= 0, got {index}") for name, index in self.classes.items() if index < 0
        ]
        if len(set(self.classes.values())) < len(self.classes):
            faults.append(Fault("classes", "must have distinct indices"))
        if self.min_area < 1:
            faults.append(Fault("min_area", f"must be >= 1, got {self.min_area}", "pixels"))
        if not 0.0 <= self.min_score <= 1.0:
            faults.append(Fault("min_score", f"must be in [0, 1], got {self.min_score}"))
        raise_faults(faults)

    def class_names(self, data: DataInfo) -> tuple[str, ...]:
        """The objects' classes, without the background: ``class_names(data)[label - 1]``."""
        return tuple(self.classes) or data.class_names

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Boxes]:
        """The image, and its boxes with labels from 1: the data's own, or those around the pieces of its mask (H, W).

        Raises:
            StillhouseError: a mask, and ``classes`` does not say what in it is an object.
        """
        if isinstance(target, Mapping):
            return image, {"boxes": target["boxes"], "labels": target["labels"] + 1}
        if not self.classes:
            raise StillhouseError(
                "targets that are masks need the classes that are objects",
                where="task.args.classes",
                hint="args = { classes = { car = 8, pedestrian = 9 } }, the names and their indices in the mask",
            )
        return image, find_boxes(target, tuple(self.classes.values()), self.min_area)

    def collate(self, targets: list[Boxes]) -> list[Boxes]:
        """A list: images have different numbers of boxes."""
        return targets

    def outputs(self, data: DataInfo) -> int:
        """The classes and the background."""
        return len(self.class_names(data)) + 1

    def call(self, model: nn.Module, inputs: Tensor, targets: list[Boxes] | PartlyLabelled | None) -> Any:
        """A detector gets lists, and in training the targets; any other model the batch (B, C, H, W).

        Where not all samples are labelled, its losses are of those that are.
        """
        if not is_detector(model):
            return model(inputs)
        if not model.training or targets is None:
            return model(list(inputs))
        boxes, labelled = (targets.values, targets.number) if isinstance(targets, PartlyLabelled) else (targets, None)
        try:
            # Of a part without a labelled sample all are counted: its loss is multiplied by 0.
            return compute_losses(model, list(inputs), boxes, labelled or None)
        except (
            KeyError,
            ValueError,
            AssertionError,
        ) as error:  # torchvision's models look for masks or keypoints, and at boxes
            raise StillhouseError(
                f"training on boxes and labels fails: {type(error).__name__}: {error}",
                where="student",
                hint="detectors that need masks or keypoints are not supported",
            ) from error

    def check(self, output: Any, targets: list[Boxes], data: DataInfo) -> None:
        """Refuse a model that gives no dict of losses in training; warn of inputs that are normalised twice."""
        if not _are_losses(output):
            raise StillhouseError(
                f"detection needs a dict of losses in training, got {type(output).__name__}",
                where="student",
                hint="one of torchvision's detection models, or one whose forward(images, targets=None) returns "
                "losses in training and a list of {boxes, labels, scores} in eval mode",
            )
        if wrong := [n for n, i in self.classes.items() if data.target == "mask" and i >= data.classes]:
            raise StillhouseError(
                f"must be a class of the masks, 0 to {data.classes - 1}, got {self.classes[wrong[0]]}",
                where=f"task.args.classes.{wrong[0]}",
            )
        if data.mean:
            warnings.warn(
                "inputs are normalised by [data], and torchvision's detection models normalise theirs again: "
                'set [data] normalize = "none" unless the model is one that does not',
                StillhouseWarning,
                stacklevel=2,
            )

    def loss(self, output: Mapping[str, Tensor], targets: list[Boxes]) -> Tensor:
        """The sum of the model's own losses."""
        return torch.stack([value.float() for value in output.values()]).sum()

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """COCO's average precision, by ignite, over the classes that the split has boxes of.

        ``map`` is the mean over the IoU thresholds 0.5, 0.55, ..., 0.95, ``map50`` at 0.5, ``recall`` the greatest
        recall with at most 100 boxes of each class an image, the mean over those thresholds. NaN where the split has no
        box at all. Of several classes there is also ``ap``: ``map`` by class, NaN for one that the split has no box of.
        """
        many, half = make_average_precision(self.outputs(data)), make_average_precision(self.outputs(data), [0.5])
        found: dict[str, Metric] = {"map": many[0], "map50": half[0], "recall": many[1]}
        return {**found, "ap": many[2]} if len(self.class_names(data)) > 1 else found

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Any, targets: list[Boxes], teacher: Any = None
    ) -> dict[str, Figure]:
        """The true boxes of each sample, the student's and the teacher's."""
        from stillhouse.tasks.pictures import Panel, are_boxes, draw, unnormalise

        answers = {"student": output, "teacher": teacher if are_boxes(teacher) else []}
        found = {"target": targets} | {who: list(map(self._select_boxes, b)) for who, b in answers.items() if b}
        images = [unnormalise(x, data) for x in inputs]
        drawn = {name: map(self._draw_boxes, images, boxes, repeat(data)) for name, boxes in found.items()}
        return {"samples": draw(list(zip(*([Panel(name, x) for x in of] for name, of in drawn.items()), strict=True)))}

    def program(self, student: nn.Module, inputs: Tensor) -> Program:
        """All boxes that a one-stage detector considers, with their scores: see :mod:`stillhouse.tasks.candidates`."""
        from stillhouse.tasks.candidates import Candidates

        candidates = Candidates(student)
        candidates.check(inputs)
        # GroupNorm over a flat part of an image magnifies float32's rounding.
        return Program(candidates, ("boxes", "scores"), {"choice": candidates.choice}, tolerance=1e-3)

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return (
            "boxes (B, N, 4) in pixels, x1, y1, x2, y2, and scores (B, N, K) of the labels 0 to K - 1, where 0 is the "
            "background: all that are considered, to choose from"
        )

    def prediction(self, data: DataInfo, output: Boxes) -> dict[str, Any]:
        """The boxes of at least ``min_score``, the surest first: class, score and x1, y1, x2, y2 in pixels."""
        kept, names = self._select_boxes(output), self.class_names(data)
        order = kept["scores"].argsort(descending=True, stable=True).tolist()
        return {
            "objects": [
                {
                    "class": names[int(kept["labels"][i]) - 1],
                    "score": round(float(kept["scores"][i]), 4),
                    "box": [round(v, 1) for v in kept["boxes"][i].tolist()],
                }
                for i in order
            ]
        }

    def place_in(self, output: Boxes, seen: tuple[int, int], size: tuple[int, int]) -> Boxes:
        """The boxes in the pixels of the image itself."""
        down, across = size[0] / seen[0], size[1] / seen[1]
        return {**output, "boxes": output["boxes"] * torch.tensor([across, down, across, down])}

    def picture(self, data: DataInfo, image: Tensor, output: Boxes) -> Image:
        """The image beside its boxes of at least ``min_score``."""
        from stillhouse.tasks.pictures import Panel, draw, to_picture

        drawn = self._draw_boxes(image, self._select_boxes(output), data)
        return to_picture(draw([[Panel("input", image), Panel("prediction", drawn)]]))

    def _select_boxes(self, output: Boxes) -> Boxes:
        """The predicted boxes that are sure enough, of the keys that count."""
        sure = output["scores"] >= self.min_score
        return {key: output[key][sure] for key in ("boxes", "labels", "scores")}

    def _draw_boxes(self, image: Tensor, boxes: Boxes, data: DataInfo) -> Tensor:
        """An image (C, H, W), 0 to 1, with boxes in their classes' colours (3, H', W'), enlarged so that text fits."""
        from torchvision.transforms.v2 import functional as F
        from torchvision.utils import draw_bounding_boxes

        from stillhouse.tasks.pictures import make_palette

        factor = max(1, -(-480 // image.shape[-1]))
        size = [factor * image.shape[-2], factor * image.shape[-1]]
        picture = (F.resize_image(image.clamp(0, 1), size) * 255).round().to(torch.uint8)
        picture = picture.expand(3, -1, -1) if picture.shape[0] == 1 else picture
        labels = boxes["labels"].tolist()
        if labels:
            names, colours = self.class_names(data), (make_palette(len(self.class_names(data))) * 255).astype(np.uint8)
            scores = [f" {s:.2f}" for s in boxes["scores"].tolist()] if "scores" in boxes else [""] * len(labels)
            picture = draw_bounding_boxes(
                picture,
                boxes["boxes"] * factor,
                [names[label - 1] + score for label, score in zip(labels, scores, strict=True)],
                [tuple(int(c) for c in colours[label - 1]) for label in labels],
                width=2,
            )
        drawn: Tensor = picture.float() / 255
        return drawn


def find_boxes(mask: Tensor, classes: tuple[int, ...], min_area: int = 1) -> Boxes:
    """Boxes around the connected pieces of a mask; pixels that touch at a corner are connected.

    Args:
        mask: class indices (H, W), on the CPU.
        classes: the indices that are objects; the first becomes label 1.
        min_area: the least number of pixels of a piece.

    Returns:
        ``boxes`` (N, 4) float32, x1, y1, x2, y2 from pixel edge to pixel edge, and ``labels`` (N,) int64; by class, then
        from top to bottom.
    """
    from scipy import ndimage  # takes a while to import, and is needed where boxes are made of masks

    array = mask.numpy()
    boxes, labels = [], []
    for label, index in enumerate(classes, start=1):
        pieces, count = ndimage.label(array == index, structure=np.ones((3, 3)))
        areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        for (rows, columns), area in zip(ndimage.find_objects(pieces), areas, strict=True):
            if area >= min_area:
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                labels.append(label)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def _are_losses(output: Any) -> bool:
    return isinstance(output, Mapping) and bool(output) and all(_is_scalar(value) for value in output.values())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0
