"""Networks that would not end, or fit no memory, are refused by their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillhouse.errors import StillhouseError
from stillhouse.models import convnet, dense_vit, mlp, unet, vit

MAKE: dict[str, Callable[..., Any]] = {
    "convnet": convnet,
    "unet": unet,
    "mlp": lambda num_classes, **args: mlp(num_classes, 4, **args),
    "vit": lambda num_classes, width=64, **args: vit(num_classes, dim=width, **args),
    "dense_vit": lambda num_classes, width=64, **args: dense_vit(num_classes, dim=width, **args),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("key", "value"), [("depth", 10**6), ("width", 10**9), ("width", 2.5), ("depth", "x"), ("depth", 0)]
)
def test_what_no_network_has(name: str, key: str, value: Any):
    with pytest.raises(StillhouseError, match=r": must be (at most [\d,]+|a whole number|>= 1), got"):
        MAKE[name](3, **{key: value})


@pytest.mark.parametrize("make", [convnet, unet])
def test_each_stage_doubles_the_channels(make: Callable[..., Any]):
    with pytest.raises(StillhouseError, match=r"stages: must be at most 20, got 3000000"):
        make(3, stages=3_000_000)
