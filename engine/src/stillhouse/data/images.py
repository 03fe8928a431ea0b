"""Conversion of files, PIL images, arrays and tensors to tensors of one shape.

An image is read as it is seen: turned by its EXIF orientation, laid on a background where it is transparent, and whole,
with 16 bits where it has them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.Image import Transpose
from torch import Tensor

from stillhouse.data.files import show_name
from stillhouse.data.tensors import DEEPEST, convert_array, convert_tensor
from stillhouse.errors import StillhouseError

__all__ = ["SUFFIXES", "WHITE", "Look", "decode", "is_unclear", "look_at", "open_image", "to_tensor"]

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
"""Of the image files that are read."""
WHITE = 255

_GRAY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_OTHER_BYTE = {f"{m};16{order}": f"{m};16{other}" for m in ("RGB", "RGBA") for order, other in _OTHER_ORDER.items()}
"""How pixels would have to be stored for PIL to keep the second byte of those that are stored so."""


class Look(NamedTuple):
    """What the headers of some image files say.

    Attributes:
        gray: all of them hold one channel.
        deep: some hold 16 bits a channel.
        mixed: some hold 16 bits a channel, and some 8.
        frames: how many of them hold several pictures.
    """

    gray: bool
    deep: bool
    mixed: bool
    frames: int


def look_at(paths: Iterable[Path | BinaryIO]) -> Look:
    """Read the headers of image files; unreadable ones don't count."""
    found = [header for header in map(_read_header, paths) if header is not None]
    return Look(
        gray=bool(found) and all(gray for gray, _, _ in found),
        deep=any(deep for _, deep, _ in found),
        mixed=len({deep for _, deep, _ in found}) > 1,
        frames=sum(frames > 1 for _, _, frames in found),
    )


def _read_header(path: Path | BinaryIO) -> tuple[bool, bool, int] | None:
    """Read whether a file is grey, whether it is deep, and its number of pictures; None: it is unreadable."""
    try:
        with Image.open(path) as image:
            raw = _read_raw_mode(image)
            gray = image.mode in _GRAY or raw.startswith("LA")
            return gray, _is_deep(image, raw), getattr(image, "n_frames", 1)
    except Exception:  # noqa: BLE001 - PIL raises whatever its decoders raise; who reads the image says so
        return None


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open and decode an image file, in its own mode, turned by its EXIF orientation.

    Raises:
        StillhouseError: the file is missing, truncated or not an image; it is named.
    """
    try:
        image = Image.open(path)
        try:
            image.load()
            turned = _turn(image)
        except BaseException:
            image.close()
            raise
    except Exception as error:  # noqa: BLE001 - PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise _make_unreadable_error(path, error) from None
    with image:
        yield turned


def decode(path: Path, background: int = WHITE, deep: bool = False) -> Tensor:
    """Decode an image file to (C, H, W): C = 1 for greyscale, else 3 (palette, CMYK and the like become RGB).

    Args:
        path: the file.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.
        deep: give float32 for images of 8 bits, too.

    Returns:
        uint8; of images with 16 bits a channel float32, 0 to 1.

    Raises:
        StillhouseError: the file is missing, truncated, not an image or not to be read whole; it is named.
    """
    try:
        with Image.open(path) as image:
            raw = _read_raw_mode(image)
            if _is_deep(image, raw) and image.mode not in _GRAY:
                tensor = _decode_deep_colour(path, raw, background)
            else:
                image.load()
                tensor = _convert_pil(_turn(image), background, raw)
    except Exception as error:  # noqa: BLE001 - PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise _make_unreadable_error(path, error) from None
    return tensor.float().div_(255) if deep and tensor.dtype == torch.uint8 else tensor


def _make_unreadable_error(path: Path, error: Exception) -> StillhouseError:
    what = str(error)
    if isinstance(error, StillhouseError):
        what = error.faults[0].what
    elif path.is_symlink() and not path.exists():
        what = f"it is a link to {show_name(path.readlink())}, which is not there"
    elif isinstance(error, OSError) and error.strerror:
        what = error.strerror
    return StillhouseError(
        f"this image cannot be read: {what}",
        where=show_name(path),
        hint="replace the file, or leave such files out with --skip-bad",
    )


def _read_raw_mode(image: Image.Image) -> str:
    """Read how an image's pixels are stored, ``RGB;16B`` say; its mode does not tell, and loading forgets it."""
    tiles = getattr(image, "tile", None) or [()]
    args = tiles[0][-1] if tiles[0] else ""
    if isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int) and image.format == "PPM":
        return f"{args[0]};16" if args[1] > 255 else str(args[0])  # (mode, greatest value)
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_deep(image: Image.Image, raw: str) -> bool:
    """Whether the image holds more than 8 bits a channel, in whole numbers from 0."""
    if image.mode.startswith("I;16"):
        return True
    return ";16" in raw and not raw.endswith("S")  # I;16S has a sign


def _decode_deep_colour(path: Path, raw: str, background: int) -> Tensor:
    """Decode 16 bits a channel of colour, or with alpha, of which PIL keeps the first byte: read again, it keeps the other."""
    if raw == "LA;16B":  # its four bytes a pixel, as if they were four channels
        pairs = _read_as(path, "RGBA").astype(np.float32)
        high, low = pairs[..., ::2], pairs[..., 1::2]
    elif raw in _OTHER_BYTE:
        high, low = (_read_as(path, each).astype(np.float32) for each in (raw, _OTHER_BYTE[raw]))
    else:
        raise StillhouseError(f"its 16 bits a channel, stored as {raw}, cannot be read whole", hint="save it as a PNG")
    values = torch.from_numpy((high * 256 + low) / np.float32(DEEPEST)).permute(2, 0, 1)
    if values.shape[0] == 3:
        return values.contiguous()
    colour, alpha = values[:-1], values[-1:]
    return colour * alpha + (1 - alpha) * (background / 255)


def _read_as(path: Path, raw: str) -> NDArray[np.uint8]:
    """Read an image's pixels as if they were stored as ``raw``; (H, W, C)."""
    with Image.open(path) as opened:
        image: Any = opened
        image.tile = [
            tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
        ]
        image.load()
        return np.asarray(_turn(image))


def _turn(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation, which cameras write in place of turning the pixels."""
    turn = _find_turn(image)
    return image if turn is None else image.transpose(turn)


def _find_turn(image: Image.Image) -> Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - the picture may be whole where its metadata are not
        return None


def is_unclear(value: Any) -> bool:
    """Whether ``value`` is a copy of an image that was to be turned: nobody can tell whether its pixels were."""
    return (
        isinstance(value, Image.Image) and not isinstance(value, ImageFile.ImageFile) and _find_turn(value) is not None
    )


def to_tensor(value: Any, background: int = WHITE) -> Tensor:
    """Convert a sample's input to a tensor of uint8, or of float32 that counts as scaled already.

    Args:
        value: a PIL image, of which one as it was opened is turned by its EXIF orientation; a numpy array (H, W),
            (H, W, C) or (C, H, W), where C is 1, 3 or 4; a tensor, taken as (C, H, W), as (H, W) or as a vector (D,).
            Arrays and tensors are of uint8, of uint16, which becomes 0 to 1, or of floats.
        background: the level of grey, 0 to 255, that transparent pixels of PIL images are laid on.

    Returns:
        (C, H, W) for images; a tensor of another number of dimensions as it is.

    Raises:
        StillhouseError: another type, dtype or shape.
    """
    if isinstance(value, Image.Image):
        raw = _read_raw_mode(value)
        if ";16" in raw and value.mode not in _GRAY:
            raise StillhouseError("PIL keeps 8 of this image's 16 bits a channel", hint="give it as an array of uint16")
        if isinstance(value, ImageFile.ImageFile):  # a copy keeps the metadata, whether or not its pixels were turned
            value.load()  # TIFF turns itself then
            value = _turn(value)
        value = _convert_pil(value, background, raw)
    elif isinstance(value, np.ndarray):
        value = convert_array(value)
    elif not isinstance(value, Tensor):
        raise StillhouseError(f"the input must be a PIL image, a tensor or a numpy array, got {type(value).__name__}")
    return convert_tensor(value)


def _convert_pil(image: Image.Image, background: int, raw: str) -> Tensor:
    if image.mode.startswith("I;16") or (image.mode == "I" and _is_deep(image, raw)):
        values = np.asarray(image).astype(np.float32)
        key = image.info.get("transparency")
        if isinstance(key, int):  # one level stands for no paint
            values[values == key] = background / 255 * DEEPEST
        return torch.from_numpy(values / np.float32(DEEPEST))[None]
    if image.mode in ("I", "F"):
        raise StillhouseError(
            f"images of mode {image.mode!r} have no defined range", hint="save them with 8 or 16 bits"
        )
    gray = image.mode in _GRAY
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    array = np.array(image.convert("L" if gray else "RGB"))
    tensor = torch.from_numpy(array)
    return tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1).contiguous()
