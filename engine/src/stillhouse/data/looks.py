"""The augmented images of a batch, checked: one shape, finite, and errors that name transform and sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.sample_errors import TransformError, check_finite, is_finite
from stillhouse.data.sampler import Key
from stillhouse.data.sources import Source
from stillhouse.data.transform_chain import TransformChain
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape

_TOO_BRIGHT = 2.0
"""A mean that no image from 0 to 1 has, whatever is erased with noise."""

__all__ = ["make_looks", "name_failure", "scale"]


def make_looks(
    transforms: TransformChain,
    images: Sequence[NDArray[Any]],
    key: Key,
    seed: int,
    shape: tuple[int, ...],
    source: Source,
) -> Tensor:
    """Make the looks that ``key``'s samples have in its epoch (B, C, H, W); they are not normalised yet.

    Args:
        transforms: the augmentation.
        images: as read and shaped, each (C, H, W); they stay as they are.
        key: the samples and the epoch.
        seed: the run's.
        shape: that each must have then.
        source: names a sample's place, for messages.

    Raises:
        StillhouseError: a transform fails, gives another shape, or what is not finite.
    """
    try:
        made = transforms.augment(images, key.ids, seed, key.epoch)
    except TransformError as error:
        raise name_failure(error, source.place(int(key.ids[error.row]))) from error.error
    if not isinstance(made, Tensor) or tuple(made.shape[1:]) != shape:
        for x, before in zip(made, images, strict=True):
            if not isinstance(x, Tensor) or tuple(x.shape) != shape:
                raise StillhouseError(
                    f"transforms must keep evaluation's input shape {shape}: {format_shape(torch.from_numpy(before))} "
                    f"became {format_shape(x) if isinstance(x, Tensor) else type(x).__name__}",
                    where="data.transforms",
                    hint="set `size` to the shape that they give",
                )
    if not isinstance(made, Tensor):  # a transform that makes floats, and is applied to some samples only
        made = torch.stack([scale(x) for x in made])
    if not is_finite(made):
        for x, i in zip(made, key.ids.tolist(), strict=True):
            check_finite(x, source, i)
    if made.dtype is not torch.uint8:
        _check_range(made, images[0])
    return made


def _check_range(made: Tensor, before: NDArray[Any]) -> None:
    """Refuse looks that are no floats from 0 to 1 where their images are bytes: evaluation, without transforms, has those."""
    if not made.is_floating_point():
        what = f"transforms must give uint8 (0 to 255) or floats (0 to 1), got {str(made.dtype).removeprefix('torch.')}"
        raise StillhouseError(what, where="data.transforms", hint="ToDtype with dtype = 'float32', scale = true")
    if before.dtype == np.uint8 and (mean := float(made.mean())) > _TOO_BRIGHT:
        raise StillhouseError(
            f"transforms turn bytes into floats that are not scaled: their mean is {mean:.4g}, and evaluation's inputs are 0 to 1",
            where="data.transforms",
            hint="ToDtype with scale = true",
        )


def name_failure(error: TransformError, place: str) -> StillhouseError:
    """Make the error that says which transform failed on which sample."""
    what = f"{error.name} fails on {place}: {type(error.error).__name__}: {error.error}"
    return StillhouseError(what, where=error.where)


def scale(x: Tensor) -> Tensor:
    """Scale uint8 0 ... 255 to float32 0 ... 1; floats count as scaled."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()
