"""Multi-label classification: which of the classes an image has, any number of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import Metric, MetricsLambda
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.tasks.maps import check_ignored, get_class_name, require_vector
from stillhouse.tasks.measures import AveragePrecision, average_present, derive_metric, measure_loss, sum_over_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["MultiLabel"]

_MASK_VALUES = 256


@attrs.frozen(kw_only=True)
class MultiLabel(Task):
    """Multi-label classification: logits (B, classes) against 0 and 1 (B, classes), binary cross-entropy.

    Of data with masks, the classes present are the labels. The loss is the mean over samples and classes.

    Attributes:
        min_share: of masks: the share of an image's pixels from which on a class counts as present; 0: one pixel is
            enough.
        ignore_index: of masks: the value for pixels without a label, the data's ``ignore``.
        threshold: probability from which on a class counts as predicted, in F1, accuracy and predictions.
    """

    score: ClassVar[str] = "map"
    takes: ClassVar[tuple[str, ...]] = ("mask", "vector")
    takes_logits: ClassVar[bool] = True

    min_share: float = 0.0
    ignore_index: int = 255
    threshold: float = 0.5

    def __attrs_post_init__(self) -> None:
        faults = []
        if not 0.0 <= self.min_share < 1.0:
            faults.append(Fault("min_share", f"must be in [0, 1), got {self.min_share}"))
        if not 0.0 < self.threshold < 1.0:
            faults.append(Fault("threshold", f"must be in (0, 1), got {self.threshold}"))
        raise_faults(faults)

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The image, and 0 or 1 for each class: a vector as it is, or of a mask (H, W) one for each value 0 to 255.

        How many classes there are is not known here; :meth:`loss` and :meth:`metrics` leave out the values past them.
        """
        target = torch.as_tensor(target)
        if target.ndim < 2:
            if bool(((target < 0) | (target > 1)).any()):
                raise StillhouseError("the target must be in [0, 1]", hint="1 for the classes present, else 0")
            return image, target.float()
        mask = target.long().flatten()
        labelled = (mask >= 0) & (mask < _MASK_VALUES) & (mask != self.ignore_index)
        pixels = torch.bincount(mask[labelled], minlength=_MASK_VALUES)  # on the CPU, where a mask may index
        return image, (pixels >= max(1.0, self.min_share * mask.numel())).float()

    def outputs(self, data: DataInfo) -> int:
        """One for each class, or each number of the data's vectors."""
        return data.target_shape[0] if data.target == "vector" else data.classes

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not one logit for each class, and vectors that are not 0 to 1."""
        check_ignored(data, self.ignore_index)
        require_vector(output, self.outputs(data), "multi-label classification")
        if bool(((targets < 0) | (targets > 1)).any()):
            raise StillhouseError("targets must be in [0, 1]", where="data", hint="1 for the classes present, else 0")

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits (B, C) and labels (B, C or more)."""
        return F.binary_cross_entropy_with_logits(output.float(), targets[:, : output.shape[1]].float())

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        """The mean over the classes for each sample (B,)."""
        labels = targets[:, : output.shape[1]].float()
        return F.binary_cross_entropy_with_logits(output.float(), labels, reduction="none").mean(1), None

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Over the split; classes that no sample has are left out of means and NaN by class.

        ``map`` is the mean over the classes of the average precision (the sum over the ranking of precision times gain in
        recall, without interpolation), ``ap`` the same by class; ``f1`` the mean over the classes of
        2 TP / (2 TP + FP + FN), ``f1_micro`` the same of all classes' counts; ``accuracy`` the share of right answers.
        """
        classes = self.outputs(data)

        def scores_and_labels(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
            return state["output"], state["target"][:, :classes] > 0.5

        def counts(state: dict[str, Any]) -> Tensor:
            found = state["output"].float().sigmoid() >= self.threshold
            truth = state["target"][:, :classes] > 0.5
            return torch.stack([found & truth, found & ~truth, ~found & truth, ~(found | truth)]).sum(1)

        precision = AveragePrecision(scores_and_labels)
        sums = sum_over_split(counts)  # true positives, false positives, false negatives, true negatives (4, classes)
        return {
            "map": MetricsLambda(lambda ap: average_present(ap, "labels"), precision),
            "ap": precision,
            "f1": derive_metric(
                lambda s: average_present(torch.where(s[0] + s[2] > 0, _f1(s), torch.nan), "labels"), sums
            ),
            "f1_micro": derive_metric(lambda s: _f1(s.sum(1)), sums),
            "accuracy": derive_metric(lambda s: (s[0] + s[3]).sum() / s.sum(), sums),
            "loss": measure_loss(self),
        }

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """The samples, each with the classes there are and those that student and teacher find."""
        from stillhouse.tasks.pictures import draw_samples, is_picture

        if not is_picture(inputs):
            return {}

        def names(flags: Tensor) -> str:
            chosen = [get_class_name(data, i) for i in flags.nonzero().flatten().tolist()]
            return ", ".join(chosen[:2]) + (f" + {len(chosen) - 2}" if len(chosen) > 2 else "") or "none"

        flags = {"true": targets[:, : output.shape[1]] > 0.5, "student": output.float().sigmoid() >= self.threshold}
        if isinstance(teacher, Tensor) and teacher.shape == output.shape:
            flags["teacher"] = teacher.float().sigmoid() >= self.threshold
        titles = ["\n".join(f"{who}: {names(of[i])}" for who, of in flags.items()) for i in range(len(inputs))]
        return {"samples": draw_samples(inputs, titles, data)}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "logits (B, classes): sigmoid gives the probability of each class"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """The classes found, and the probability of every class, the greatest first; ``output`` is (C,)."""
        p = output.float().sigmoid()
        order = p.argsort(descending=True, stable=True).tolist()
        ranked = [{"class": get_class_name(data, i), "probability": round(float(p[i]), 4)} for i in order]
        return {"labels": [get_class_name(data, i) for i in order if p[i] >= self.threshold], "probabilities": ranked}

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image:
        """The image beside bars of the classes' probabilities."""
        from stillhouse.tasks.pictures import draw_bars, to_picture

        ranked = self.prediction(data, output)["probabilities"][:10]
        return to_picture(draw_bars(image, [(r["class"], r["probability"]) for r in ranked], "probability", 1.0))


def _f1(counts: Tensor) -> Tensor:
    """F1 from true positives, false positives and false negatives (3 or more, ...)."""
    return 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])
