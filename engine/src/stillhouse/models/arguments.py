"""Arguments of models that follow from the data, and downloads of published weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError

__all__ = ["fetch", "fill_arguments"]


def fill_arguments(args: Mapping[str, Any], takes: Iterable[str], info: DataInfo) -> dict[str, Any]:
    """Return ``args`` completed by the arguments in ``takes`` that follow from the data."""
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


def fetch(build: Callable[[], Any], spec: ModelSpec, where: str) -> Any:
    """Call ``build``, and turn a failed download into a StillhouseError.

    Raises:
        StillhouseError: the download failed; or raised by ``build``.
    """
    try:
        return build()
    except StillhouseError as error:
        if isinstance(error.__cause__, OSError):  # URLError, HTTPError, timeouts, a full disk
            raise StillhouseError(
                f"the published weights of {spec.model!r} cannot be fetched: {error.__cause__}",
                where=f"{where}.pretrained",
                hint='leave out `pretrained` and give the weights: checkpoint = "FILE"',
            ) from error.__cause__
        raise
