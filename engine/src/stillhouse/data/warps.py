"""torchvision's RandomRotation and RandomAffine for a whole batch: each image turned, moved, scaled and sheared by itself."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from stillhouse.data.kernels import Drawn
from stillhouse.data.random_numbers import Uniform, between

__all__ = ["Affine", "Rotation"]

Range = tuple[float, float]


@attrs.frozen(kw_only=True)
class Affine:
    """An affine map of each image about a centre.

    Attributes:
        degrees: the range of the angle, clockwise.
        translate: the greatest shift as a fraction of width and height; None: none.
        scale: the range of the scale; None: 1.
        shear: the ranges of the shears along x and along y, in degrees; None: none.
        interpolation: ``nearest`` or ``bilinear``.
        fill: what comes in from outside, by channel or one for all; None: zero, blended in.
        center: the point that stays (x, y) in pixels; None: the middle.
    """

    degrees: Range
    translate: tuple[float, float] | None = None
    scale: Range | None = None
    shear: tuple[Range, Range] | None = None
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: tuple[float, ...] | None = None
    center: tuple[float, float] | None = None
    numbers: int = attrs.field(default=6, init=False)

    def draw(self, u: Uniform, shape: tuple[int, ...]) -> Drawn:
        """See :meth:`stillhouse.data.kernels.Kernel.draw`; ``translate`` and ``shear`` are (2, B)."""
        _, height, width = shape
        none = np.zeros_like(u[:2])
        reach = np.array([[width], [height]]) * np.array(self.translate or (0.0, 0.0))[:, None]
        shear = [between(u[4 + k], *limits) for k, limits in enumerate(self.shear)] if self.shear else none
        return {
            "angle": between(u[0], *self.degrees),
            "translate": np.rint((2 * u[1:3] - 1) * reach).astype(np.int64),
            "scale": between(u[3], *self.scale) if self.scale else none[0] + 1.0,
            "shear": np.stack(list(shear)),
        }

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`stillhouse.data.kernels.Kernel.apply`."""
        middle = (0.5 * x.shape[-1], 0.5 * x.shape[-2])
        center = tuple(c - m for c, m in zip(self.center or middle, middle, strict=True))
        columns = (drawn["angle"], *drawn["translate"], drawn["scale"], *drawn["shear"])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return _resample(x, [_invert(center, *row) for row in rows], self.interpolation, self.fill)


@attrs.frozen(kw_only=True)
class Rotation:
    """A rotation of each image about a centre; corners are lost.

    Attributes:
        degrees: the range of the angle, counter-clockwise.
        transform: torchvision's, which turns by quarters without resampling.
        interpolation: see :class:`Affine`, as ``fill`` and ``center``.
        fill: ...
        center: ...
    """

    degrees: Range
    transform: Any
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: tuple[float, ...] | None = None
    center: tuple[float, float] | None = None
    numbers: int = attrs.field(default=1, init=False)

    def draw(self, u: Uniform, _shape: tuple[int, ...]) -> Drawn:
        """See :meth:`stillhouse.data.kernels.Kernel.draw`."""
        return {"angle": between(u[0], *self.degrees)}

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`stillhouse.data.kernels.Kernel.apply`."""
        middle = (0.5 * x.shape[-1], 0.5 * x.shape[-2])
        center = tuple(c - m for c, m in zip(self.center or middle, middle, strict=True))
        angles = [angle % 360 for angle in drawn["angle"].tolist()]
        matrices = [_invert(center, -angle, 0, 0, 1.0, 0.0, 0.0) for angle in angles]
        out = _resample(x, matrices, self.interpolation, self.fill)
        for k, angle in enumerate(angles):
            if angle % 90 == 0:
                out[k] = self.transform.transform(x[k], {"angle": angle})
        return out


def _invert(
    center: tuple[float, ...], angle: float, right: float, down: float, scale: float, across: float, along: float
) -> list[float]:
    """The map from a result's pixel to the image's, 2 x 3 by rows, of pixels counted from the middle.

    Operation by operation in float64 as torchvision does it, so that both round alike. It undoes: shear by ``across`` and
    ``along``, scale, turn clockwise by ``angle`` degrees, all about ``center``, and shift by (``right``, ``down``).
    """
    turn, by_x, by_y = math.radians(angle), math.radians(across), math.radians(along)
    a = math.cos(turn - by_y) / math.cos(by_y)
    b = -(a * math.tan(by_x) + math.sin(turn))
    c = math.sin(turn - by_y) / math.cos(by_y)
    d = math.cos(turn) - c * math.tan(by_x)
    top, bottom = (d / scale, -b / scale), (-c / scale, a / scale)
    x, y = center[0] + right, center[1] + down
    return [
        *top,
        center[0] - top[0] * x - top[1] * y,
        *bottom,
        center[1] - bottom[0] * x - bottom[1] * y,
    ]


def _resample(x: Tensor, matrices: list[list[float]], interpolation: str, fill: tuple[float, ...] | None) -> Tensor:
    """Read images (B, C, H, W) where ``matrices``, one for each, say."""
    count, _, height, width = x.shape
    points = torch.ones(height, width, 3)
    points[..., 0] = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width)
    points[..., 1] = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height)[:, None]
    maps = torch.tensor(matrices).reshape(-1, 2, 3).transpose(1, 2).div_(torch.tensor([0.5 * width, 0.5 * height]))
    grid = points.reshape(1, -1, 3).expand(count, -1, -1).bmm(maps).reshape(count, height, width, 2)
    inside = None
    images = x.float()
    if fill is not None:
        images = torch.cat((images, torch.ones(count, 1, height, width)), dim=1)
    out = torch.nn.functional.grid_sample(images, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    if fill is not None:
        out, inside = out[:, :-1], out[:, -1:]
        value = torch.tensor(fill).reshape(1, -1, 1, 1)
        if interpolation == "nearest":
            out = torch.where(inside < 0.5, value, out)
        else:
            out = (out - value).mul_(inside).add_(value)
    return out if x.is_floating_point() else out.round_().to(x.dtype)
