"""Regression: numbers of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
from ignite.metrics import Metric
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.tasks.maps import get_class_name, require_vector
from stillhouse.tasks.measures import derive_metric, measure_loss, sum_over_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Regression"]


@attrs.frozen(kw_only=True)
class Regression(Task):
    """Regression: numbers (B, D) against numbers (B, D).

    Of data with depths, the number is the mean over the measured pixels, in metres. A target that is not finite was not
    measured and is left out of everything; a batch of those alone has the loss 0 and the gradient 0.

    Attributes:
        kind: the loss, a mean over all targets: ``l2``, the squared difference; ``l1``, the absolute; ``huber``: half the
            square up to a difference of 1, from there on the difference less a half.
    """

    score: ClassVar[str] = "mae"
    score_mode: ClassVar[Literal["max", "min"]] = "min"
    takes: ClassVar[tuple[str, ...]] = ("depth", "vector")

    kind: Literal["l2", "l1", "huber"] = "l2"

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The image, and its numbers (D,): a vector as it is, or the mean (1,) of depths; NaN where all are holes."""
        target = torch.as_tensor(target).float()
        if target.ndim < 2:
            return image, target.reshape(-1)
        known = target.isfinite() & (target > 0)
        return image, (torch.where(known, target, 0.0).double().sum() / known.sum()).float().reshape(1)

    def outputs(self, data: DataInfo) -> int:
        """1 for a mean depth, else as many as the data's vectors have."""
        return 1 if data.target == "depth" else data.target_shape[0]

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model that does not give as many numbers as the targets have."""
        require_vector(output, targets.shape[1], "regression")

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean error of numbers (B, D) over the targets that were measured."""
        return self._compute_errors(output, targets).sum() / self.count(targets).clamp(min=1)

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of each sample's errors (B,), and how many targets were measured in all."""
        return self._compute_errors(output, targets).sum(1), self.count(targets)

    def _compute_errors(self, output: Tensor, targets: Tensor) -> Tensor:
        """The error of each target (B, D), 0 where none was measured."""
        known = targets.isfinite()
        error = torch.where(known, output.float() - torch.where(known, targets.float(), 0.0), 0.0)
        size = error.abs()
        if self.kind == "l2":
            return error.square()
        return size if self.kind == "l1" else torch.where(size < 1, 0.5 * error.square(), size - 0.5)

    def count(self, targets: Tensor) -> Tensor:
        """The targets that were measured."""
        return targets.isfinite().sum()

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Over all targets of the split that were measured.

        ``mae`` is the mean absolute error, ``rmse`` the root of the mean squared error, ``r2`` the coefficient of
        determination 1 - SSE / SST, of several numbers its mean; of several there is also each number's ``mae_each``.
        """
        sums = sum_over_split(_errors)
        found: dict[str, Metric] = {
            "mae": derive_metric(lambda s: _require_measured(s)[1].sum() / s[0].sum(), sums),
            "rmse": derive_metric(lambda s: (_require_measured(s)[2].sum() / s[0].sum()).sqrt(), sums),
            "r2": derive_metric(lambda s: (1 - s[2] / (s[4] - s[3].square() / s[0])).mean(), sums),
            "loss": measure_loss(self),
        }
        if self.outputs(data) > 1:
            found["mae_each"] = derive_metric(lambda s: s[1] / s[0], sums)
        return found

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """The samples, each with its number and those that student and teacher find; up to three of several."""
        from stillhouse.tasks.pictures import draw_samples, is_picture

        if not is_picture(inputs):
            return {}

        def text(values: Tensor) -> str:
            return ", ".join(f"{v:.3g}" for v in values.tolist()[:3]) + (" ..." if len(values) > 3 else "")

        numbers = {"true": targets, "student": output.float()}
        if isinstance(teacher, Tensor) and teacher.shape == output.shape:
            numbers["teacher"] = teacher.float()
        titles = ["\n".join(f"{who}: {text(of[i])}" for who, of in numbers.items()) for i in range(len(inputs))]
        return {"samples": draw_samples(inputs, titles, data)}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "numbers (B, D), in the units of the targets"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """The numbers by name; ``output`` is (D,)."""
        if data.target == "depth":
            return {"values": {"mean depth": round(float(output[0]), 4)}}
        return {"values": {get_class_name(data, i): round(float(v), 4) for i, v in enumerate(output.tolist())}}

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image:
        """The image beside bars of the numbers."""
        from stillhouse.tasks.pictures import draw_bars, to_picture

        values = list(self.prediction(data, output)["values"].items())[:10]
        return to_picture(draw_bars(image, values, "m" if data.target == "depth" else "value"))


def _errors(state: dict[str, Any]) -> Tensor:
    """Sums (5, D) over the batch: count, absolute error, squared error, target, squared target."""
    target = state["target"]
    known = target.isfinite()
    truth = torch.where(known, target, 0.0).double()
    error = torch.where(known, state["output"].double() - truth, 0.0)
    return torch.stack([known.double(), error.abs(), error.square(), truth, truth.square()]).sum(1)


def _require_measured(sums: Tensor) -> Tensor:
    if float(sums[0].sum()) == 0:
        raise StillhouseError("a split must have measured targets, got none", where="data")
    return sums
