"""Conversion of files, PIL images, arrays and tensors to tensors of one shape."""

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

from stillhouse.errors import StillhouseError, first_line
from stillhouse.layout import format_shape

__all__ = ["Shaping", "are_gray", "decode", "is_gray", "open_image", "to_tensor"]

_GRAY = ("1", "L", "LA", "I;16", "I;16L", "I;16B")


def is_gray(path: Path) -> bool:
    """Whether the image file holds one channel; reads the header only.

    Raises:
        StillhouseError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.mode in _GRAY
    except Exception as error:  # noqa: BLE001 - PIL raises whatever its decoders raise
        raise _make_unreadable_error(path, error) from None


def are_gray(paths: Iterable[Path]) -> bool:
    """Whether all image files hold one channel; unreadable ones don't count."""
    found = []
    for path in paths:
        try:
            found.append(is_gray(path))
        except StillhouseError:
            continue  # whoever reads it says so
    return bool(found) and all(found)


def _load(path: Path) -> Image.Image:
    image = Image.open(path)
    try:
        image.load()
    except BaseException:
        image.close()
        raise
    return image


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open and decode an image file, in its own mode.

    Raises:
        StillhouseError: the file is missing, truncated or not an image; it is named.
    """
    try:
        image = _load(path)
    except Exception as error:  # noqa: BLE001 - PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise _make_unreadable_error(path, error) from None
    with image:
        yield image


def decode(path: Path) -> Tensor:
    """Decode an image file to uint8 (C, H, W): C = 1 for greyscale, else 3 (palette, alpha and CMYK become RGB).

    Raises:
        StillhouseError: the file is missing, truncated or not an image; it is named.
    """
    with open_image(path) as image:
        try:
            return to_tensor(image)
        except Exception as error:  # noqa: BLE001 - conversions raise whatever they raise
            raise _make_unreadable_error(path, error) from None


def _make_unreadable_error(path: Path, error: Exception) -> StillhouseError:
    return StillhouseError(
        f"this image cannot be read: {error}",
        where=str(path),
        hint="replace the file, or leave such files out with --skip-bad",
    )


def to_tensor(value: Any) -> Tensor:
    """Convert a sample's input to a tensor of uint8, or of float32 that counts as scaled already.

    Args:
        value: a PIL image; a numpy array (H, W), (H, W, C) or (C, H, W) of uint8 or floats, where C is 1, 3 or 4; a
            tensor, taken as (C, H, W), as (H, W) or as a vector (D,), of uint8 or floats.

    Returns:
        (C, H, W) for images; a tensor of another number of dimensions as it is.

    Raises:
        StillhouseError: another type, dtype or shape.
    """
    if isinstance(value, Image.Image):
        value = _convert_pil(value)
    elif isinstance(value, np.ndarray):
        value = _convert_numpy(value)
    elif not isinstance(value, Tensor):
        raise StillhouseError(f"the input must be a PIL image, a tensor or a numpy array, got {type(value).__name__}")
    tensor: Tensor = value.detach().as_subclass(Tensor)
    if tensor.ndim == 0:
        raise StillhouseError("the input must be an image (C, H, W) or a vector (D,), got a single number")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype != torch.uint8:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise StillhouseError(f"the input must be uint8 (0 to 255) or floats, got {kind}")
    return tensor


def _convert_pil(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16"):
        return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))[None]
    if image.mode in ("I", "F"):
        raise StillhouseError(f"images of mode {image.mode!r} have no defined range", hint="save them with 8 bits")
    array = np.array(image.convert("L" if image.mode in _GRAY else "RGB"))
    tensor = torch.from_numpy(array)
    return tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _convert_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim == 3:
        if array.shape[2] in (1, 3, 4):
            array = array.transpose(2, 0, 1)
        elif array.shape[0] not in (1, 3, 4):
            raise StillhouseError(
                f"the input must be (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got an array {array.shape}"
            )
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise StillhouseError(f"the input must be uint8 (0 to 255) or floats, got {array.dtype}") from None


@attrs.frozen(kw_only=True)
class Shaping:
    """Conversion of every input to one number of channels and one size, in training and evaluation alike.

    Attributes:
        channels: 1 or 3 converts images to as many channels; None leaves them.
        size: height and width that images are resized to (bilinear, antialiased, without regard to their aspect).
    """

    channels: int | None = None
    size: tuple[int, int] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(C, H, W) -> (channels, *size); the dtype stays.

        Raises:
            StillhouseError: the input is not an image, or its channels cannot be converted.
        """
        if self.channels is None and self.size is None:
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
            x = F.rgb_to_grayscale(x) if self.channels == 1 else x.expand(3, -1, -1).contiguous()
        if self.size is not None and tuple(x.shape[1:]) != self.size:
            x = _resize(x, self.size)
        return x


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    try:
        resized: Tensor = F.resize(x, list(size), antialias=True)
    except RuntimeError as error:  # too little memory, or a size that torch's kernel does not have
        what = f"cannot be resized from {format_shape(x)} to {size}: {first_line(error)}"
        raise StillhouseError(what, where="data.size") from error
    return resized
