"""One number of channels and one size for all inputs."""

from __future__ import annotations

import attrs
from torch import Tensor

from stillhouse.errors import StillhouseError, first_line
from stillhouse.layout import format_shape

__all__ = ["Shaping"]


@attrs.frozen(kw_only=True)
class Shaping:
    """Conversion of every input to one number of channels and one size, in training and evaluation alike.

    Attributes:
        channels: 1 or 3 converts images to as many channels; None leaves them.
        size: height and width that images are resized to (bilinear, antialiased, without regard to their aspect).
    """

    channels: int | None = None
    size: tuple[int, int] | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every input stays as it is."""
        return self.channels is None and self.size is None

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of ``shape``, (C, H, W) for images, stay as they are."""
        fits = len(shape) == 3 and self.channels in (None, shape[0]) and self.size in (None, shape[1:])
        return self.keeps_all or fits

    def __call__(self, x: Tensor) -> Tensor:
        """(C, H, W) -> (channels, *size); the dtype stays.

        Raises:
            StillhouseError: the input is not an image, or its channels cannot be converted.
        """
        if self.keeps_all:
            return x
        if x.ndim != 3:
            raise StillhouseError(
                f"`size` and `channels` need images (C, H, W), got {format_shape(x)}", hint="leave them out"
            )
        if self.channels is not None and x.shape[0] != self.channels:
            if x.shape[0] not in (1, 3):
                raise StillhouseError(
                    f"`channels` needs images of 1 or 3 channels, got {x.shape[0]}", hint="leave out `channels`"
                )
            x = _to_grey(x) if self.channels == 1 else x.expand(3, -1, -1).contiguous()
        if self.size is not None and tuple(x.shape[1:]) != self.size:
            x = _resize(x, self.size)
        return x


def _to_grey(x: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    grey: Tensor = F.rgb_to_grayscale(x)
    return grey


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    try:
        resized: Tensor = F.resize(x, list(size), antialias=True)
    except RuntimeError as error:  # too little memory, or a size that torch's kernel does not have
        what = f"cannot be resized from {format_shape(x)} to {size}: {first_line(error)}"
        raise StillhouseError(what, where="data.size") from error
    return resized
