"""What the data decides of a model's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError

__all__ = ["fetched", "filled"]


def filled(args: Mapping[str, Any], takes: Iterable[str], info: DataInfo) -> dict[str, Any]:
    """``args`` and, of what the data decides, whatever the callable takes besides."""
    shape = info.input_shape
    size: Any = shape[-1]
    if len(shape) == 3 and shape[1] != shape[2]:
        size = tuple(shape[1:])
    known: dict[str, Any] = {
        "num_classes": info.classes,
        "in_channels": shape[0],
        "in_chans": shape[0],
        "in_features": math.prod(shape),
        "image_size": size,
        "img_size": size,
        "input_size": size,
        "input_shape": shape,
    }
    return {**{name: known[name] for name in takes if name in known}, **args}


def fetched(build: Callable[[], Any], spec: ModelSpec, where: str) -> Any:
    """``build()``, whose download may fail.

    Raises:
        StillhouseError: it did; or whatever ``build`` raises.
    """
    try:
        return build()
    except StillhouseError as error:
        if isinstance(error.__cause__, OSError):  # URLError, HTTPError, timeouts, a full disk
            raise StillhouseError(
                f"the published weights of {spec.model!r} cannot be fetched: {error.__cause__}",
                where=f"{where}.pretrained",
                hint='leave out `pretrained` and bring the weights: checkpoint = "FILE"',
            ) from error.__cause__
        raise
