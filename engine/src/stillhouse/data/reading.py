"""One sample read from its source, in the form that all samples of a run get."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.data.boxes import fit_boxes
from stillhouse.data.sample_errors import make_size_error
from stillhouse.data.shaping import Shaping
from stillhouse.data.sources import Source
from stillhouse.data.targets import find_size, resize_target
from stillhouse.errors import StillhouseError

__all__ = ["read_shaped"]


def read_shaped(source: Source, shaping: Shaping, i: int) -> tuple[Tensor, Any]:
    """Read sample ``i`` of ``source`` and apply ``shaping``, its target resized with it; an error names its place.

    Raises:
        StillhouseError: it cannot be read or converted, or its target has another size.
    """
    x, target = source.pair(i)
    try:
        if source.target == "vector":
            _check_length(source, target)
        if source.target == "boxes":
            target = fit_boxes(target, x.shape[-2], x.shape[-1])
        whole = find_size(source.target, target)
        if whole is not None and whole != tuple(x.shape[-2:]):
            raise make_size_error(x, f"{source.target} {source.target_place(i)}", whole)
        out = shaping(x)
    except StillhouseError as error:
        raise error.within(source.place(i)) from None
    if source.target != "class" and out.shape[-2:] != x.shape[-2:]:
        target = resize_target(source.target, target, (x.shape[-2], x.shape[-1]), (out.shape[-2], out.shape[-1]))
    return out, target


def _check_length(source: Source, target: Tensor) -> None:
    """Refuse a vector of another length than the first one's."""
    if source.vector_length is None:
        first = int(source.splits["train"][0])
        source.vector_length = len(source.pair(first)[1])
    if len(target) != source.vector_length:
        raise StillhouseError(
            f"the target must have {source.vector_length} numbers as the first sample's, got {len(target)}"
        )
