"""Transforms that change the pixels of a whole batch at once, each image with random parameters of its own.

Each gives, bit for bit, what its class in torchvision.transforms.v2 gives for one image with the same parameters.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.random_numbers import Uniform, below, between

__all__ = ["Blur", "Drawn", "Erasing", "Kernel", "Sometimes", "Whole"]

Drawn = dict[str, NDArray[Any]]
"""Parameters by the names that torchvision has for them, the samples along the last axis: (..., B)."""


class Kernel(Protocol):
    """A transform of a batch."""

    @property
    def numbers(self) -> int:
        """How many random numbers a sample takes."""
        ...

    def draw(self, u: Uniform, shape: tuple[int, ...]) -> Drawn:
        """Turn random numbers (numbers, B) into parameters for images of ``shape`` (C, H, W)."""
        ...

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """Transform images (B, C, H, W), uint8 or float32; the input stays as it is."""
        ...


@attrs.frozen
class Whole:
    """A transform without parameters that differ between samples, which torchvision's own code applies to a batch.

    Attributes:
        transform: of torchvision.transforms.v2.
    """

    transform: Any
    numbers: int = attrs.field(default=0, init=False)

    def draw(self, _u: Uniform, _shape: tuple[int, ...]) -> Drawn:
        """See :meth:`Kernel.draw`."""
        return {}

    def apply(self, x: Tensor, _drawn: Drawn) -> Tensor:
        """See :meth:`Kernel.apply`."""
        out: Tensor = self.transform.transform(x, self.transform.make_params([x]))
        return out


@attrs.frozen
class Sometimes:
    """A transform that is applied to some of the samples, to all of these alike.

    Attributes:
        transform: of torchvision.transforms.v2, with its probability ``p``.
        one_by_one: call torchvision's code by sample: what it rounds depends on how many images it is given.
    """

    transform: Any
    one_by_one: bool = False
    numbers: int = attrs.field(default=1, init=False)

    def draw(self, u: Uniform, _shape: tuple[int, ...]) -> Drawn:
        """See :meth:`Kernel.draw`."""
        return {"applied": u[0] < self.transform.p}

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`Kernel.apply`."""
        rows = np.flatnonzero(drawn["applied"])
        if len(rows) == 0:
            return x
        fixed = self.transform.make_params([x])
        if self.one_by_one:
            out = x.clone()
            for row in rows.tolist():
                out[row] = self.transform.transform(x[row], fixed)
            return out
        if len(rows) == len(x):
            changed: Tensor = self.transform.transform(x, fixed)
            return changed
        at = torch.from_numpy(rows)
        return x.index_copy(0, at, self.transform.transform(x[at], fixed))


@attrs.frozen
class Erasing:
    """torchvision's RandomErasing with a given value: a rectangle of each image is filled, of ten sizes the first that fits.

    Attributes:
        p: how likely a rectangle is erased.
        scale: the least and the greatest share of the image's area.
        ratio: the least and the greatest height over width.
        value: by channel, or one for all.
    """

    p: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    value: tuple[float, ...]
    numbers: int = attrs.field(default=23, init=False)

    def draw(self, u: Uniform, shape: tuple[int, ...]) -> Drawn:
        """See :meth:`Kernel.draw`.

        Raises:
            ValueError: as many values as neither 1 nor the number of channels.
        """
        channels, height, width = shape
        if len(self.value) not in (1, channels):
            raise ValueError(f"there must be 1 value or {channels}, as many as channels, got {len(self.value)}")
        area = height * width * between(u[3:13], *self.scale)
        aspect = np.exp(between(u[13:23], *np.log(self.ratio)))
        h, w = (np.rint(np.sqrt(side)).astype(np.int64) for side in (area * aspect, area / aspect))
        fits = (h < height) & (w < width)
        first = np.argmax(fits, axis=0)[None]
        h, w = (np.take_along_axis(side, first, axis=0)[0] for side in (h, w))
        found = (u[0] < self.p) & fits.any(axis=0)
        h, w = h * found, w * found
        return {"i": below(u[1], height - h + 1), "j": below(u[2], width - w + 1), "h": h, "w": w}

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`Kernel.apply`."""
        out = x.clone()
        value = torch.tensor(self.value)[:, None, None]
        for image, i, j, h, w in zip(out, *(drawn[key].tolist() for key in "ijhw"), strict=True):
            image[:, i : i + h, j : j + w] = value
        return out


@attrs.frozen
class Blur:
    """torchvision's GaussianBlur.

    Attributes:
        kernel_size: width and height of the kernel, odd.
        sigma: the least and the greatest standard deviation in pixels.
    """

    kernel_size: tuple[int, int]
    sigma: tuple[float, float]
    numbers: int = attrs.field(default=1, init=False)

    def draw(self, u: Uniform, _shape: tuple[int, ...]) -> Drawn:
        """See :meth:`Kernel.draw`."""
        return {"sigma": between(u[0], *self.sigma)}

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`Kernel.apply`."""
        width, height = self.kernel_size
        across, down = (self._make_bells(size, drawn["sigma"]) for size in self.kernel_size)
        kernels = down[:, :, None] * across[:, None, :]
        margins = [width // 2, width // 2, height // 2, height // 2]
        padded = torch.nn.functional.pad(x.float(), margins, mode="reflect")
        channels = x.shape[1]
        out = torch.empty(x.shape)
        # One convolution an image: which algorithm torch takes, and how that rounds, depends on how many there are.
        for made, image, kernel in zip(out, padded, kernels, strict=True):
            each = kernel.expand(channels, 1, height, width)
            made.copy_(torch.nn.functional.conv2d(image[None], each, groups=channels)[0])
        return out if x.is_floating_point() else out.round_().to(x.dtype)

    @staticmethod
    def _make_bells(size: int, sigma: NDArray[Any]) -> Tensor:
        """Bell curves of ``size`` points that sum to 1, one for each ``sigma`` (B,): (B, size)."""
        reach = (size - 1) / (2.0 * 2.0**0.5)
        points = torch.linspace(-reach, reach, size)
        # Divided by a number and not by a tensor of float32, as torchvision does: sigma is not rounded before.
        return torch.stack([torch.softmax((points / s).square().neg(), dim=0) for s in sigma.tolist()])
