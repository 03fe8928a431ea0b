"""What a cache holds: which of the teacher's layers, of which samples, how precise."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

__all__ = ["CacheSpec", "Pool", "Precision", "dtype_of"]

Pool = Literal["mean", "cls", "none"]
Precision = Literal["float32", "bfloat16", "float16"]


def dtype_of(precision: Precision) -> torch.dtype:
    """The torch dtype of that name."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


@attrs.frozen(kw_only=True)
class CacheSpec:
    """What a plugin asks of the teacher cache.

    Attributes:
        taps: the teacher's layers, dotted paths; the empty path is the model itself.
        pool: what becomes of a layer's output: ``mean`` over the positions of maps and tokens, ``cls``, the first token,
            or ``none``: as it is.
        outputs: whether the teacher's outputs are kept as well.
        split: ``train``: the training samples in use; ``pool``: all samples of the training split.
        views: how many augmented looks of each sample are kept; training then gives the student the same looks, by
            epoch modulo ``views``. 0: one look, as in evaluation, whatever the student is shown.
        precision: dtype of the teacher's forward passes; anything but float32 runs them under autocast.
        store: dtype on the disk.
        moments: whether mean and covariance of the first tap are measured, from what the pass computes in float32.
        folder: where it is kept; empty: a folder of the user's cache, named by its content.
    """

    taps: tuple[str, ...]
    pool: Pool = "mean"
    outputs: bool = False
    split: Literal["train", "pool"] = "train"
    views: int = 0
    precision: Precision = "float32"
    store: Literal["float16", "float32"] = "float16"
    moments: bool = False
    folder: str = ""
