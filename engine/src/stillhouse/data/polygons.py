"""Pixels of a thing, as COCO's annotations tell them: polygons, or lengths of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stillhouse.errors import StillhouseError

__all__ = ["draw_mask"]


def draw_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Draw the pixels of one thing (H, W).

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, ...], ...]`` in pixels, or ``{size: [H, W], counts: ...}`` with the
            lengths of runs down the columns, a list or COCO's compressed text.
        height: of the image, in pixels.
        width: likewise.

    Raises:
        StillhouseError: it is neither, or of another size.
    """
    if isinstance(segmentation, Mapping):
        return _decode_runs(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise StillhouseError(f"a segmentation must be polygons or runs, got {segmentation!r:.60}")
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise StillhouseError(f"a polygon must be x1, y1, x2, y2, x3, y3, ..., got {polygon!r:.60}")
        pen.polygon([float(n) for n in polygon], fill=1)
    return np.asarray(canvas, dtype=np.bool_)


def _decode_runs(told: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    counts = told.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if told.get("size") != [height, width] or not isinstance(counts, Sequence) or sum(counts) != height * width:
        raise StillhouseError(f"runs must be of the image's {height} x {width} pixels, got size {told.get('size')!r}")
    inside = np.arange(len(counts)) % 2 == 1  # the first run lies outside
    return np.repeat(inside, counts).reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """Numbers from COCO's text: six bits a character, five of them a number's, the least first; differences from the third on."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:  # the sign
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
