"""Depth from one image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import Metric
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.tasks.maps import is_map_of, require_map, resize_map
from stillhouse.tasks.measures import derive_metric, measure_loss, sum_over_split
from stillhouse.tasks.own_pixels import Map, to_millimetres

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Depth"]


@attrs.frozen(kw_only=True)
class Depth(Task):
    """Depth in metres from one image: a map (B, 1, h, w) against depths (B, 1, H, W), 0 where nothing was measured.

    Maps of another size are brought to the target's by bilinear interpolation. Holes (0, NaN, infinite) are left out
    of everything; a batch of holes alone has the loss 0 and the gradient 0.

    Attributes:
        kind: the loss. ``silog``: for each image the mean over the measured pixels of d squared, less
            ``silog_lambda`` times the square of the mean of d, where d is the difference of the logarithms
            (Eigen et al. 2014, equation 4); then the mean over the images that have a measured pixel. ``l1``: the mean
            over all measured pixels of the absolute difference in metres.
        silog_lambda: 0 to 1. 0.5 is Eigen's; 1 does not see an error in scale at all.
        output: the form of the model's output. ``softplus``: metres, through softplus, so that they are positive; ``log``: the
            logarithm of metres; ``metres``: metres, for a model that gives no negative ones.
        min_depth: in evaluation, pixels nearer than this are left out, and predictions are no smaller; metres.
        max_depth: in evaluation, pixels farther than this are left out, and predictions are no greater; none: no limit.
        average: of the metrics. ``image``: each is computed for each image, and the mean taken over the images, as
            published tables mostly do; ``pixel``: over all pixels of the split at once.
    """

    score: ClassVar[str] = "abs_rel"
    score_mode: ClassVar[Literal["max", "min"]] = "min"
    takes: ClassVar[tuple[str, ...]] = ("depth",)

    kind: Literal["silog", "l1"] = "silog"
    silog_lambda: float = 0.5
    output: Literal["softplus", "log", "metres"] = "softplus"
    min_depth: float = 1e-3
    max_depth: float | None = None
    average: Literal["image", "pixel"] = "image"

    def __attrs_post_init__(self) -> None:
        faults = []
        if not 0.0 <= self.silog_lambda <= 1.0:
            faults.append(Fault("silog_lambda", f"must be in [0, 1], got {self.silog_lambda}"))
        if self.min_depth <= 0:
            faults.append(Fault("min_depth", f"must be > 0, got {self.min_depth}"))
        if self.max_depth is not None and self.max_depth <= self.min_depth:
            faults.append(Fault("max_depth", f"must be > min_depth = {self.min_depth}, got {self.max_depth}"))
        raise_faults(faults)

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The image, and the depths (1, H, W) as float32."""
        depth = torch.as_tensor(target).float()
        return image, depth[None] if depth.ndim == 2 else depth

    def outputs(self, data: DataInfo) -> int:
        """One channel."""
        return 1

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not one channel."""
        require_map(_add_channel(output), 1, "depth")

    def to_metres(self, output: Tensor, size: tuple[int, ...]) -> Tensor:
        """A model's output (B, 1, h, w) or (B, h, w) as metres (B, 1, H, W), float32."""
        return self._to_metres(resize_map(_add_channel(output), size))

    def _to_metres(self, x: Tensor) -> Tensor:
        if self.output == "metres":
            return x
        return x.exp() if self.output == "log" else F.softplus(x)

    def _to_log_metres(self, x: Tensor) -> Tensor:
        if self.output == "log":
            return x
        if self.output == "metres":
            return x.clamp(min=self.min_depth).log()
        # log(softplus(x)) is x, to five digits, below -10; softplus itself would reach 0 and its logarithm infinity.
        return torch.where(x < -10, x, F.softplus(x.clamp(min=-10)).log())

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``kind``, see the class; a mean over what :meth:`count` counts."""
        return self._compute_errors(output, targets).sum() / self.count(targets).clamp(min=1)

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``silog`` each image's loss (B,), of ``l1`` the sum over its measured pixels; and what :meth:`count` counts."""
        return self._compute_errors(output, targets).flatten(1).sum(1), self.count(targets)

    def _compute_errors(self, output: Tensor, targets: Tensor) -> Tensor:
        """Of ``silog`` each image's loss (B, 1), of ``l1`` each pixel's (B, 1, H, W); 0 where nothing was measured."""
        known = _find_known(targets)
        depth = torch.where(known, targets.float(), 1.0)
        # Before any function of it: a gradient of 0 times an infinite derivative would be NaN.
        x = torch.where(known, resize_map(_add_channel(output), targets.shape[-2:]), 0.0)
        if self.kind == "l1":
            return torch.where(known, self._to_metres(x) - depth, 0.0).abs()
        d = torch.where(known, self._to_log_metres(x) - depth.log(), 0.0)
        n = known.sum((1, 2, 3)).clamp(min=1)
        # As variance and mean, which the same formula is, and which cannot come out below 0 by rounding.
        mean = d.sum((1, 2, 3)) / n
        spread = torch.where(known, d - mean[:, None, None, None], 0.0).square().sum((1, 2, 3)) / n
        return (spread + (1 - self.silog_lambda) * mean.square())[:, None]

    def count(self, targets: Tensor) -> Tensor:
        """Of ``silog`` the images that have a measured pixel, of ``l1`` the measured pixels."""
        known = _find_known(targets)
        return (known.flatten(1).any(1) if self.kind == "silog" else known).sum()

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """Over the measured pixels between ``min_depth`` and ``max_depth``, predictions limited to the same range.

        ``abs_rel`` is the mean of the absolute error by the depth, ``rmse`` the root of the mean squared error in
        metres, ``log10`` the mean absolute error of the decimal logarithm, ``delta1``, ``delta2`` and ``delta3`` the
        shares of pixels whose ratio to the truth, whichever way above 1, is below 1.25, its square and its cube.
        """
        sums = sum_over_split(self._errors)

        def mean(of: int) -> Metric:
            return derive_metric(lambda s: _require_measured(s)[of] / s[-1], sums)

        by_image = self.average == "image"
        found = {"abs_rel": mean(0)}
        found["rmse"] = mean(1) if by_image else derive_metric(lambda s: (_require_measured(s)[1] / s[-1]).sqrt(), sums)
        found |= {"log10": mean(2), "delta1": mean(3), "delta2": mean(4), "delta3": mean(5), "loss": measure_loss(self)}
        return found

    def _errors(self, state: dict[str, Any]) -> Tensor:
        """Sums (7,) over the batch: the six errors, and what they are to be divided by: pixels, or images."""
        target = state["target"]
        known = _find_known(target) & (target >= self.min_depth)
        if self.max_depth is not None:
            known &= target <= self.max_depth
        truth = torch.where(known, target, 1.0).double()
        found = self.to_metres(state["output"], target.shape[-2:]).double().clamp(self.min_depth, self.max_depth)
        ratio = torch.maximum(found / truth, truth / found)
        errors = [
            (found - truth).abs() / truth,
            (found - truth).square(),
            (found.log10() - truth.log10()).abs(),
            *((ratio < 1.25**power).double() for power in (1, 2, 3)),
        ]
        sums = torch.where(known, torch.stack(errors), 0.0).sum((2, 3, 4))  # (6, B)
        n = known.sum((1, 2, 3)).double()
        if self.average == "pixel":
            return torch.cat([sums.sum(1), n.sum()[None]])
        means = sums / n.clamp(min=1)  # an image without measured pixels adds 0 to both sums
        means = torch.stack([means[0], means[1].sqrt(), *means[2:]])
        return torch.cat([means.sum(1), (n > 0).sum()[None]])

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """Input, target, the student's and the teacher's depths on one scale, and the student's error; holes are grey."""
        from stillhouse.tasks.pictures import Panel, draw, make_error, unnormalise

        found = self.to_metres(output, targets.shape[-2:])
        maps = {"target": torch.where(_find_known(targets), targets, math.nan), "student": found}
        if is_map_of(teacher, output):
            maps["teacher"] = self.to_metres(teacher, targets.shape[-2:])
        error = found - maps["target"]
        rows = [
            [
                Panel("input", unnormalise(x, data)),
                *(Panel(name, depths[i, 0], unit="m") for name, depths in maps.items()),
                make_error(error[i, 0], "m"),
            ]
            for i, x in enumerate(inputs)
        ]
        return {"samples": draw(rows)}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        ways = {"softplus": "softplus(output)", "log": "exp(output)", "metres": "output"}
        return f"a map (B, 1, h, w): metres = {ways[self.output]}"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """Least, mean, median and greatest depth in metres; ``output`` is (1, h, w) or (h, w)."""
        depth = self.to_metres(output[None], output.shape[-2:]).double()
        values = {"min": depth.min(), "mean": depth.mean(), "median": depth.median(), "max": depth.max()}
        return {"metres": {name: round(float(value), 3) for name, value in values.items()}}

    def map_of(self, data: DataInfo, output: Tensor, size: tuple[int, int]) -> Map:
        """The depth of each pixel (H, W) in millimetres, 16 bits; ``output`` is (1, h, w) or (h, w)."""
        depth = self.to_metres(output[None], size)[0, 0]
        return Map(to_millimetres(depth), "depth in millimetres; 0: none, 65535: 65.535 m or farther")

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image:
        """The image beside its depths."""
        from stillhouse.tasks.pictures import Panel, draw, to_picture

        depth = self.to_metres(output[None], image.shape[-2:])[0, 0]
        return to_picture(draw([[Panel("input", image), Panel("depth", depth, unit="m")]]))


def _add_channel(output: Any) -> Any:
    """Depth models of some libraries give (B, H, W)."""
    return output[:, None] if isinstance(output, Tensor) and output.ndim == 3 else output


def _find_known(targets: Tensor) -> Tensor:
    """Return a mask of the measured depths."""
    return targets.isfinite() & (targets > 0)


def _require_measured(sums: Tensor) -> Tensor:
    if float(sums[-1]) == 0:
        raise StillhouseError(
            "a split must have depths between min_depth and max_depth", where="data", hint="depths are in metres"
        )
    return sums
