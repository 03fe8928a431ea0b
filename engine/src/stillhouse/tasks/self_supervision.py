"""Pretraining without labels: two views of every image are brought together, and different images kept apart."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import EpochMetric, Metric
from torch import Tensor, nn

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.distributed import processes as parallel
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.layout import format_shape
from stillhouse.tasks.embeddings import measure_nearest_neighbours, measure_rank

__all__ = ["SelfSupervised", "barlow_twins", "draw_views", "nt_xent"]


@attrs.frozen(kw_only=True)
class SelfSupervised(Task):
    """Self-supervised pretraining on images (B, C, H, W), for a teacher that has never seen a label.

    In training each batch goes through the model as two randomly changed views, made on the run's device; the model's
    output (B, ``dim``) is the projection that the loss compares, and what lies before its last layer are the features to
    keep. Labels, where the data has them, are used to measure alone: ``knn`` is the accuracy of the nearest other sample
    of the split by cosine.

    Attributes:
        kind: ``simclr`` (Chen et al. 2020, the NT-Xent loss) or ``barlow`` (Zbontar et al. 2021, Barlow Twins).
        dim: numbers in a projection.
        temperature: of ``simclr``.
        off_diagonal: weight of the correlations between different numbers in ``barlow``.
        crop: least share of the image's area that a view shows, 0 to 1.
        rotate: most degrees that a view is turned, either way.
        flip: whether half the views are mirrored.
        jitter: most relative change of brightness and contrast.
        noise: standard deviation of what is added to every (normalised) pixel.
    """

    score: ClassVar[str] = "knn"
    takes: ClassVar[tuple[str, ...]] = ("class", "none")

    kind: Literal["simclr", "barlow"] = "simclr"
    dim: int = 64
    temperature: float = 0.5
    off_diagonal: float = 5e-3
    crop: float = 0.4
    rotate: float = 10.0
    flip: bool = True
    jitter: float = 0.4
    noise: float = 0.0

    def __attrs_post_init__(self) -> None:
        faults = [
            Fault(name, f"must be > 0, got {getattr(self, name)}")
            for name in ("dim", "temperature", "crop")
            if getattr(self, name) <= 0
        ]
        faults += [
            Fault(name, f"must be >= 0, got {getattr(self, name)}")
            for name in ("off_diagonal", "rotate", "jitter", "noise")
            if getattr(self, name) < 0
        ]
        if self.crop > 1:
            faults.append(Fault("crop", f"must be <= 1, got {self.crop}", "a share of the image"))
        raise_faults(faults)

    def collate(self, targets: list[Any]) -> Any:
        """Labels (B,), int64; -1 where there are none."""
        return torch.as_tensor([-1 if target is None else int(target) for target in targets])

    def outputs(self, data: DataInfo) -> int:
        """The projection's size."""
        return self.dim

    def call(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """Training: both views (2B, dim), first views first. Evaluation: the images as they are (B, dim)."""
        if not model.training:
            return model(inputs)
        return model(torch.cat([self._view(inputs), self._view(inputs)]))

    def _view(self, images: Tensor) -> Tensor:
        return draw_views(
            images, crop=self.crop, rotate=self.rotate, flip=self.flip, jitter=self.jitter, noise=self.noise
        )

    def check(self, output: Any, targets: Any, data: DataInfo) -> None:
        """Refuse anything but vectors."""
        if not isinstance(output, Tensor) or output.ndim != 2:
            what = format_shape(output) if isinstance(output, Tensor) else type(output).__name__
            raise StillhouseError(
                f"self-supervised pretraining needs vectors (B, {self.dim}), got {what}",
                where="student",
                hint="a classification model, whose last layer then gives the projection",
            )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of both views (2B, dim); with several processes of the whole batch, gathered with gradient."""
        first, second = (parallel.gather(view) for view in output.float().chunk(2))
        if self.kind == "barlow":
            return barlow_twins(first, second, self.off_diagonal)
        return nt_xent(first, second, self.temperature)

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """``knn``, 0 where there are no labels, and the projections' effective ``rank``."""
        return {
            "knn": EpochMetric(_measure_nearest, _select_output_and_target, check_compute_fn=False),
            "rank": EpochMetric(measure_rank, _select_output_and_target, check_compute_fn=False),
        }

    def prediction(self, data: DataInfo, output: Any) -> dict[str, Any]:
        """The projection itself."""
        return {"projection": [round(value, 5) for value in output.tolist()]}


def _select_output_and_target(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return state["output"].float(), state["target"]


def _measure_nearest(output: Tensor, labels: Tensor) -> float:
    """The accuracy of the nearest other sample; 0 where there are no labels."""
    found = measure_nearest_neighbours(output, labels)
    return 0.0 if math.isnan(found) else found


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two views (B, D), equation 1 of Chen et al. 2020.

    Each of the 2B projections is to pick its partner out of the 2B - 1 others by cosine.
    """
    z = F.normalize(torch.cat([first, second]).float(), dim=1)
    n = first.shape[0]
    similar = z @ z.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similar.masked_fill(itself, float("-inf")), partner)


def barlow_twins(first: Tensor, second: Tensor, off_diagonal: float) -> Tensor:
    """Barlow Twins' loss of two views (B, D), equation 1 of Zbontar et al. 2021, divided by D.

    The correlation (D, D) over the batch between the views is to be the identity; off the diagonal it counts
    ``off_diagonal`` as much.
    """
    a, b = (_standardise(view.float()) for view in (first, second))
    correlation = a.T @ b / a.shape[0]
    apart = (correlation - torch.eye(correlation.shape[0], device=a.device)).square()
    on = apart.diagonal().sum()
    return (on + off_diagonal * (apart.sum() - on)) / correlation.shape[0]


def _standardise(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    return (x - mean) * torch.rsqrt(variance + 1e-5)


def draw_views(x: Tensor, *, crop: float, rotate: float, flip: bool, jitter: float, noise: float) -> Tensor:
    """Each image (B, C, H, W) cropped, turned, mirrored, and changed in brightness and contrast at random.

    Every sample has numbers of its own, drawn from the global generator of ``x``'s device, without waiting for it; one
    bilinear resampling does all of the geometry, and pixels from outside repeat the edge.
    """
    n = x.shape[0]

    def between(low: float, high: float) -> Tensor:
        return torch.rand(n, device=x.device) * (high - low) + low

    scale = between(crop, 1.0).sqrt()
    stretch = torch.exp(between(-0.28, 0.28))  # aspect from 3/4 to 4/3, by its logarithm
    width, height = (scale * stretch.sqrt()).clamp(max=1.0), (scale / stretch.sqrt()).clamp(max=1.0)
    angle = torch.deg2rad(between(-rotate, rotate))
    mirrored = torch.where(between(0, 1) < 0.5, -1.0, 1.0) if flip else torch.ones(n, device=x.device)
    cos, sin = angle.cos(), angle.sin()
    across, down = between(-1, 1) * (1 - width), between(-1, 1) * (1 - height)
    rows = [width * cos * mirrored, -height * sin, across, width * sin * mirrored, height * cos, down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(n, 2, 3), list(x.shape), align_corners=False)
    view = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    mean = view.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (1 + between(-jitter, jitter)).view(n, 1, 1, 1), between(-jitter, jitter).view(n, 1, 1, 1)
    view = (view - mean) * contrast + mean + brightness
    return view + noise * torch.randn_like(view) if noise else view
