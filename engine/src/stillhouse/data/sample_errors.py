"""What is said of a sample that cannot be used: because of itself, or because it differs from the others."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.layout import shape_text

__all__ = ["Form", "MisfitError", "form_of", "misfit", "skippable"]

Form = tuple[tuple[int, ...], torch.dtype]
"""What samples have in common: their shape, with -1 where any number will do, and their type."""


class MisfitError(StillhouseError):
    """A sample that can be read, and differs from the others in shape or type."""

    form: Form | None = None
    """Its own; None where it is too small for a crop."""


def form_of(x: Tensor, shape: tuple[int, ...]) -> Form:
    """The form of an input, where ``shape`` says which numbers matter."""
    if x.ndim != len(shape):
        return tuple(x.shape), x.dtype
    return tuple(-1 if n == -1 else m for n, m in zip(shape, x.shape, strict=True)), x.dtype


def misfit(x: Tensor, form: Form, place: str, wanted: Form, other: str) -> MisfitError:
    """The error of a sample of another form.

    Args:
        x: its input.
        form: the input's form.
        place: where it is.
        wanted: the form of the others.
        other: where one of them is.
    """
    if form[0] != wanted[0]:
        what = f"the input has shape {shape_text(x)}, and {other} has {wanted[0]}"
        error = MisfitError(what, where=place, hint=_way_to_one_shape(tuple(x.shape), wanted[0]))
    else:
        error = MisfitError(f"the input is {_name(x.dtype)}, and {other} is {_name(wanted[1])}", where=place)
    error.form = form
    return error


def skippable(error: StillhouseError) -> StillhouseError:
    """The same error, whose last fault names the way to go on without such samples; misfits are never left out."""
    last, way = error.faults[-1], "--skip-bad leaves such samples out"
    if isinstance(error, MisfitError) or "--skip-bad" in last.hint:
        return error
    told = attrs.evolve(last, hint=f"{last.hint}; {way}" if last.hint else way)
    return type(error)(faults=[*error.faults[:-1], told])


def _way_to_one_shape(shape: tuple[int, ...], first: tuple[int, ...]) -> str:
    if len(shape) != 3 or len(first) != 3:
        return "all samples need one shape"
    size = f"size = [{first[1]}, {first[2]}], or a crop," if shape[1:] != first[1:] and -1 not in first else ""
    channels = f"channels = {max(first[0], shape[0])}" if shape[0] != first[0] else ""
    return "set " + " and ".join(filter(None, (channels, size))) + " in [data]"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
