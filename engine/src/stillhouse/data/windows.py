"""Crops and mirrors of a batch's images: composed as numbers, then one copy a sample, or one look-up a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.random_numbers import Uniform, below

__all__ = ["CenteredCrop", "Mirror", "Placement", "RandomCrop", "Windows"]

Pixels = NDArray[np.int64]
"""Numbers of pixels along both axes, rows and columns, for each sample: (2, B)."""


@attrs.frozen(eq=False)
class Windows:
    """The part of each image of a batch that is taken: a crop, mirrored or not, that may reach beyond the image.

    Pixel y of a result is pixel ``start + step * y`` of its image, along either axis.

    Attributes:
        start: where a result's pixel 0 lies in the image (2, B); may be outside.
        step: 1, or -1 where the axis is mirrored (2, B).
        first: the first pixel of the result that comes from the image (2, B).
        end: the first one behind these (2, B); what lies before ``first`` and from ``end`` on is filled.
        length: height and width of the result (2, B).
    """

    start: Pixels
    step: Pixels
    first: Pixels
    end: Pixels
    length: Pixels

    @classmethod
    def over(cls, images: Sequence[NDArray[Any]]) -> Windows:
        """The whole of ``images``, each (C, H, W)."""
        sizes = np.array([x.shape[-2:] for x in images], dtype=np.int64).T
        zero = np.zeros_like(sizes)
        return cls(zero, zero + 1, zero, sizes, sizes)

    @classmethod
    def over_batch(cls, x: Tensor) -> Windows:
        """The whole of each image of a batch (B, C, H, W)."""
        sizes = np.tile(np.array(x.shape[-2:], dtype=np.int64)[:, None], len(x))
        zero = np.zeros_like(sizes)
        return cls(zero, zero + 1, zero, sizes, sizes)

    def crop(self, at: Pixels, size: Pixels) -> Windows:
        """Take ``size`` pixels (2, 1) from ``at`` on (2, B), which may be negative or reach beyond the end."""
        return Windows(
            self.start + self.step * at,
            self.step,
            (self.first - at).clip(0, size),
            (self.end - at).clip(0, size),
            np.broadcast_to(size, at.shape),
        )

    def mirror(self, where: NDArray[np.bool_]) -> Windows:
        """Mirror the axes and samples of ``where`` (2, B)."""
        return Windows(
            np.where(where, self.start + self.step * (self.length - 1), self.start),
            np.where(where, -self.step, self.step),
            np.where(where, self.length - self.end, self.first),
            np.where(where, self.length - self.first, self.end),
            self.length,
        )

    def copy(self, images: Sequence[NDArray[Any]], fill: int) -> NDArray[Any] | list[NDArray[Any]]:
        """Copy the windows out of ``images``, each (C, H, W): (B, C, h, w), or a list where they differ in shape or dtype.

        Args:
            images: those that the windows were made over; results have their channels and dtypes.
            fill: what comes in from outside.
        """
        covered = bool((self.end - self.first == self.length).all())
        make = np.empty if covered else np.zeros if fill == 0 else _Full(fill)
        out: NDArray[Any] | list[NDArray[Any]]
        if bool((self.length == self.length[:, :1]).all()) and len({(len(x), x.dtype) for x in images}) == 1:
            out = make((len(images), len(images[0]), *self.length[:, 0].tolist()), images[0].dtype)
        else:
            out = [make((len(x), *size), x.dtype) for x, size in zip(images, self.length.T.tolist(), strict=True)]
        for made, image, (to_rows, rows), (to_columns, columns) in zip(out, images, *self._list_slices(), strict=True):
            made[:, to_rows, to_columns] = image[:, rows, columns]
        return out

    def gather(self, x: Tensor, fill: float) -> Tensor:
        """Gather the windows out of a batch (B, C, H, W), on its device and without making the host wait: (B, C, h, w).

        Args:
            x: what the windows were made over.
            fill: what comes in from outside.
        """
        height, width = self.length[:, 0].tolist()
        rows, in_rows = self._find_pixels(0, height, x)
        columns, in_columns = self._find_pixels(1, width, x)
        at = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).flatten(1)[:, None]
        out = x.flatten(2).gather(2, at.expand(-1, x.shape[1], -1)).reshape(*x.shape[:2], height, width)
        if bool((self.end - self.first == self.length).all()):
            return out
        return torch.where((in_rows[:, :, None] & in_columns[:, None, :])[:, None], out, fill)

    def _find_pixels(self, axis: int, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each pixel of an axis (B, length) where it comes from, and whether it does, on the batch's device."""
        pixels = np.arange(length)
        start, step, first, end = (v[axis][:, None] for v in (self.start, self.step, self.first, self.end))
        source = torch.from_numpy((start + step * pixels).clip(0, x.shape[axis - 2] - 1))
        inside = torch.from_numpy((first <= pixels) & (pixels < end))
        if x.device.type == "cuda":  # from pinned memory nothing waits
            source, inside = source.pin_memory(), inside.pin_memory()
        return source.to(x.device, non_blocking=True), inside.to(x.device, non_blocking=True)

    def _list_slices(self) -> list[list[tuple[slice, slice]]]:
        """For each axis and sample the pixels in the result, and those of the image that come there, in order."""
        low = np.where(self.step > 0, self.start + self.first, self.start - self.end + 1)
        high = low + self.end - self.first
        return [
            [
                (
                    slice(first, end),
                    slice(start, stop) if step > 0 else slice(stop - 1, start - 1 if start else None, -1),
                )
                for first, end, start, stop, step in zip(*axis, strict=True)
            ]
            for axis in zip(*(v.tolist() for v in (self.first, self.end, low, high, self.step)), strict=True)
        ]


@attrs.frozen
class _Full:
    """numpy.full as one of its neighbours that take no value."""

    fill: int

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.full(shape, self.fill, dtype)


@runtime_checkable
class Placement(Protocol):
    """A transform that takes pixels from elsewhere in the image and changes none."""

    @property
    def numbers(self) -> int:
        """How many random numbers a sample takes."""
        ...

    @property
    def fill(self) -> int | None:
        """What it brings in from outside; None: nothing."""
        ...

    def place(self, windows: Windows, u: Uniform) -> Windows:
        """Compose it after what ``windows`` does already, with the random numbers ``u`` (numbers, B)."""
        ...


@attrs.frozen
class RandomCrop:
    """torchvision's RandomCrop with constant padding.

    Attributes:
        size: height and width of the crop.
        padding: pixels added on the left, on the right, above and below.
        if_needed: add what an image lacks, on either side.
        fill: the value of added pixels; None where none can be added.
    """

    size: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    if_needed: bool = False
    fill: int | None = None
    numbers: int = attrs.field(default=2, init=False)

    def place(self, windows: Windows, u: Uniform) -> Windows:
        """See :meth:`Placement.place`.

        Raises:
            ValueError: an image is smaller than the crop.
        """
        left, right, above, below_it = self.padding
        before, behind = np.array([[above], [left]]), np.array([[below_it], [right]])
        size = np.array(self.size)[:, None]
        room = windows.length + before + behind - size
        if bool((room < 0).any()):
            if not self.if_needed:
                raise ValueError(f"a crop of {self.size} pixels is larger than an image")
            # As torchvision does it: what is lacking is added before and behind.
            before = before + np.maximum(-room, 0)
            room = np.abs(room)
        return windows.crop(below(u, room + 1) - before, size)


@attrs.frozen
class CenteredCrop:
    """torchvision's CenterCrop: the middle, with zeros around images that are smaller.

    Attributes:
        size: height and width of the crop.
    """

    size: tuple[int, int]
    numbers: int = attrs.field(default=0, init=False)
    fill: int | None = attrs.field(default=0, init=False)

    def place(self, windows: Windows, _u: Uniform) -> Windows:
        """See :meth:`Placement.place`."""
        size = np.array(self.size)[:, None]
        room = windows.length - size
        middle = np.rint(np.maximum(room, 0) / 2).astype(np.int64)  # halves to even, as Python's round
        return windows.crop(middle - np.maximum(-room, 0) // 2, size)


@attrs.frozen
class Mirror:
    """torchvision's RandomHorizontalFlip and RandomVerticalFlip.

    Attributes:
        p: how likely a sample is mirrored.
        vertical: upside down, and not left to right.
    """

    p: float
    vertical: bool = False
    numbers: int = attrs.field(default=1, init=False)
    fill: int | None = attrs.field(default=None, init=False)

    def place(self, windows: Windows, u: Uniform) -> Windows:
        """See :meth:`Placement.place`."""
        where = np.zeros(windows.length.shape, dtype=np.bool_)
        where[0 if self.vertical else 1] = u[0] < self.p
        return windows.mirror(where)
