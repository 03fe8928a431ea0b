"""Pixels of a thing, as COCO's annotations tell them: polygons, or lengths of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    inside = np.zeros((height, width), dtype=np.bool_)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise StillhouseError(f"a polygon must be x1, y1, x2, y2, x3, y3, ..., got {polygon!r:.60}")
        inside |= _fill(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), height, width)
    return inside


def _fill(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centres lie in a polygon with ``corners`` (N, 2) of x and y: (H, W).

    PIL's polygons have the outline's pixels as well, and are a pixel too wide and too high.
    """
    if not np.isfinite(corners).all():
        raise StillhouseError("a polygon's corners must be finite")
    (x, y), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    centres = np.arange(height)[:, None] + 0.5
    crosses = (y <= centres) != (y2 <= centres)  # (H, N): the row of centres meets the edge
    with np.errstate(divide="ignore", invalid="ignore"):
        meets = np.sort(np.where(crosses, x + (centres - y) * (x2 - x) / (y2 - y), np.inf), axis=1)
    meets = meets[:, : meets.shape[1] // 2 * 2]  # an even number of edges is met
    columns = np.clip(np.ceil(np.minimum(meets, width) - 0.5), 0, width).astype(np.int64)
    steps = np.zeros((height, width + 1), dtype=np.int32)
    rows = np.broadcast_to(np.arange(height)[:, None], columns.shape)
    np.add.at(steps, (rows[:, ::2], columns[:, ::2]), 1)
    np.add.at(steps, (rows[:, 1::2], columns[:, 1::2]), -1)
    return np.cumsum(steps, axis=1)[:, :width] > 0


def _decode_runs(told: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    counts = told.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    whole = counts if isinstance(counts, Sequence) and all(type(n) is int and n >= 0 for n in counts) else ()
    if told.get("size") != [height, width] or sum(whole) != height * width:
        raise StillhouseError(f"runs must be of the image's {height} x {width} pixels, got size {told.get('size')!r}")
    inside = np.arange(len(whole)) % 2 == 1  # the first run lies outside
    return np.repeat(inside, whole).reshape(width, height).T


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
