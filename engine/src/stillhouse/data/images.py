"""From whatever a data set holds (files, PIL images, arrays, tensors) to tensors of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from stillhouse.errors import StillhouseError
from stillhouse.layout import shape_text

__all__ = ["Shaping", "decode", "gray_throughout", "is_gray", "opened", "to_tensor"]

_GRAY = ("1", "L", "LA", "I;16", "I;16L", "I;16B")


def is_gray(path: Path) -> bool:
    """Whether the image file holds one channel; reads the header only.

    Raises:
        StillhouseError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.mode in _GRAY
    except Exception as error:  # noqa: BLE001 - PIL raises whatever its decoders raise
        raise _unreadable(path, error) from None


def gray_throughout(paths: Iterable[Path]) -> bool:
    """Whether all image files hold one channel; those that cannot be read don't count."""
    found = []
    for path in paths:
        try:
            found.append(is_gray(path))
        except StillhouseError:
            continue  # whoever reads it says so
    return bool(found) and all(found)


def _loaded(path: Path) -> Image.Image:
    image = Image.open(path)
    try:
        image.load()
    except BaseException:
        image.close()
        raise
    return image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image file, decoded, in its own mode.

    Raises:
        StillhouseError: the file is missing, cut off or no image; it is named.
    """
    try:
        image = _loaded(path)
    except Exception as error:  # noqa: BLE001 - PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise _unreadable(path, error) from None
    with image:
        yield image


def decode(path: Path) -> Tensor:
    """The image file as uint8 (C, H, W): C = 1 for greyscale, else 3 (palette, alpha and CMYK become RGB).

    Raises:
        StillhouseError: the file is missing, cut off or no image; it is named.
    """
    with opened(path) as image:
        try:
            return to_tensor(image)
        except Exception as error:  # noqa: BLE001 - conversions raise whatever they raise
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> StillhouseError:
    return StillhouseError(
        f"this image cannot be read: {error}",
        where=str(path),
        hint="replace the file, or leave such files out with --skip-bad",
    )


def to_tensor(value: Any) -> Tensor:
    """A sample's input as a tensor of uint8, or of float32 taken as scaled already.

    Args:
        value: a PIL image; a numpy array (H, W), (H, W, C) or (C, H, W) of uint8 or floats, where C is 1, 3 or 4; a
            tensor, taken as (C, H, W), as (H, W) or as a vector (D,), of uint8 or floats.

    Returns:
        (C, H, W) for images; a tensor of another number of dimensions as it is.

    Raises:
        StillhouseError: another type, dtype or shape.
    """
    if isinstance(value, Image.Image):
        value = _from_pil(value)
    elif isinstance(value, np.ndarray):
        value = _from_numpy(value)
    elif not isinstance(value, Tensor):
        raise StillhouseError(
            f"the input is {type(value).__name__}", hint="give a PIL image, a tensor or a numpy array"
        )
    tensor: Tensor = value.detach().as_subclass(Tensor)
    if tensor.ndim == 0:
        raise StillhouseError("the input is a single number", hint="give an image (C, H, W) or a vector (D,)")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype != torch.uint8:
        raise StillhouseError(
            f"the input is of type {str(tensor.dtype).removeprefix('torch.')}", hint="give uint8 (0 to 255) or floats"
        )
    return tensor


def _from_pil(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16"):
        return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))[None]
    if image.mode in ("I", "F"):
        raise StillhouseError(f"images of mode {image.mode!r} have no known range", hint="save them with 8 bits")
    array = np.array(image.convert("L" if image.mode in _GRAY else "RGB"))
    tensor = torch.from_numpy(array)
    return tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim == 3:
        if array.shape[2] in (1, 3, 4):
            array = array.transpose(2, 0, 1)
        elif array.shape[0] not in (1, 3, 4):
            raise StillhouseError(
                f"the input is an array {array.shape}", hint="give (H, W, C) or (C, H, W) with 1, 3 or 4 channels"
            )
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise StillhouseError(
            f"the input is an array of {array.dtype}", hint="give uint8 (0 to 255) or floats"
        ) from None


@attrs.frozen(kw_only=True)
class Shaping:
    """What every input goes through once, in training and evaluation alike.

    Attributes:
        channels: 1 or 3 converts images to as many channels; None leaves them.
        size: height and width that images are resized to (bilinear, antialiased, without regard to their aspect).
    """

    channels: int | None = None
    size: tuple[int, int] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(C, H, W) -> (channels, *size); the dtype stays.

        Raises:
            StillhouseError: the input is no image, or its channels cannot be converted.
        """
        if self.channels is None and self.size is None:
            return x
        if x.ndim != 3:
            raise StillhouseError(
                f"the input {shape_text(x)} is no image, and `size` or `channels` is set", hint="leave them out"
            )
        if self.channels is not None and x.shape[0] != self.channels:
            if x.shape[0] not in (1, 3):
                raise StillhouseError(
                    f"it has {x.shape[0]} channels, and only 1 and 3 can be converted", hint="leave out `channels`"
                )
            x = F.rgb_to_grayscale(x) if self.channels == 1 else x.expand(3, -1, -1).contiguous()
        if self.size is not None and tuple(x.shape[1:]) != self.size:
            x = F.resize(x, list(self.size), antialias=True)
        return x
