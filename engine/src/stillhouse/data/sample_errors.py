"""Errors for samples that are unreadable, inconsistent, or cannot be transformed."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from stillhouse.data.sources import Source
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape

__all__ = [
    "Form",
    "MisfitError",
    "TransformError",
    "check_finite",
    "find_form",
    "is_finite",
    "make_misfit_error",
    "make_size_error",
    "suggest_skipping",
]

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape, with -1 for any number, and dtype that samples share."""


class MisfitError(StillhouseError):
    """A readable sample that differs from the others in shape or type."""

    form: Form | None = None
    """The sample's own form; None where it is too small for a crop."""


class TransformError(Exception):
    """A transform that raised.

    Attributes:
        where: its key, such as ``data.transforms[2]``.
        name: its class.
        error: what it raised.
        row: the place of the sample in its batch.
    """

    def __init__(self, where: str, name: str, error: Exception, row: int = 0) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.where, self.name, self.error, self.row = where, name, error, row

    def at(self, row: int) -> TransformError:
        """The same of another sample of the batch."""
        return TransformError(self.where, self.name, self.error, row)


def find_form(x: Tensor, shape: tuple[int, ...]) -> Form:
    """Return an input's form; entries of ``shape`` that are -1 accept any number."""
    if x.ndim != len(shape):
        return tuple(x.shape), x.dtype
    return tuple(-1 if n == -1 else m for n, m in zip(shape, x.shape, strict=True)), x.dtype


_AT_ONCE = 1 << 20


def is_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if not x.is_floating_point() or x.numel() == 0:
        return True
    if x.numel() > _AT_ONCE and not x.is_contiguous():  # of which aminmax makes a copy
        rows = max(1, _AT_ONCE * len(x) // x.numel())
        return all(is_finite(x[start : start + rows]) for start in range(0, len(x), rows))
    low, high = torch.aminmax(x)  # NaN is the least and the greatest; quicker than isfinite, and without its mask
    return math.isfinite(low) and math.isfinite(high)


def check_finite(x: Tensor, source: Source, i: int) -> None:
    """Refuse an input with NaN or infinity, which would spread through a mean, a batch and the weights.

    Raises:
        StillhouseError: with the place of sample ``i``.
    """
    if not is_finite(x):
        kind, n = ("NaN", int(x.isnan().sum())) if bool(x.isnan().any()) else ("infinite", int(x.isinf().sum()))
        raise StillhouseError(f"the input must be finite: {n} of {x.numel()} values are {kind}", where=source.place(i))


def make_misfit_error(x: Tensor, form: Form, place: str, wanted: Form, other: str) -> MisfitError:
    """Make the error for a sample of another form.

    Args:
        x: its input.
        form: the input's form.
        place: where it is.
        wanted: the form of the others.
        other: where one of them is.
    """
    if form[0] != wanted[0]:
        what = f"the input must have the shape {wanted[0]} of {other}, got {format_shape(x)}"
        error = MisfitError(what, where=place, hint=_suggest_one_shape(tuple(x.shape), wanted[0]))
    else:
        error = MisfitError(
            f"the input must be {_name_dtype(wanted[1])} as {other}, got {_name_dtype(x.dtype)}", where=place
        )
    error.form = form
    return error


def make_size_error(x: Tensor, what: str, size: tuple[int, ...]) -> StillhouseError:
    """Make the error for a target that has not its image's size.

    Args:
        x: the image (C, H, W).
        what: the target's kind, and where it is if not beside the image: ``mask masks/1.png: ``.
        size: its own height and width.
    """
    turned = size == x.shape[:-3:-1]
    return StillhouseError(
        f"the {what}must have its image's size, {_format_size(tuple(x.shape[-2:]))} (width x height), "
        f"got {_format_size(size)}",
        hint="images are turned by their EXIF orientation: turn it likewise" if turned else "",
    )


def suggest_skipping(error: StillhouseError) -> StillhouseError:
    """Return the error with a hint to ``--skip-bad``; misfits, which are never left out, stay as they are."""
    last, way = error.faults[-1], "--skip-bad leaves such samples out"
    if isinstance(error, MisfitError) or "--skip-bad" in last.hint:
        return error
    told = attrs.evolve(last, hint=f"{last.hint}; {way}" if last.hint else way)
    return type(error)(faults=[*error.faults[:-1], told])


def _suggest_one_shape(shape: tuple[int, ...], first: tuple[int, ...]) -> str:
    if len(shape) != 3 or len(first) != 3:
        return "all samples need one shape"
    size = f"size = [{first[1]}, {first[2]}], or a crop," if shape[1:] != first[1:] and -1 not in first else ""
    channels = f"channels = {max(first[0], shape[0])}" if shape[0] != first[0] else ""
    return "set " + " and ".join(filter(None, (channels, size))) + " in [data]"


def _name_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _format_size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}" if len(size) == 2 else str(size)
