"""Training-time augmentation: tables that name classes of torchvision.transforms.v2."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchvision.transforms.v2 as v2
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from stillhouse.arguments import call
from stillhouse.errors import Fault, StillhouseError, did_you_mean

__all__ = ["build_transforms"]

_OF_BATCHES = ("CutMix", "MixUp")
_ENUMS: dict[str, type[enum.Enum]] = {"interpolation": InterpolationMode, "policy": AutoAugmentPolicy}


def build_transforms(
    tables: Sequence[Mapping[str, Any]], where: str = "data.transforms"
) -> Callable[[Tensor], Tensor] | None:
    """One function (C, H, W) -> (C, H, W) that applies the transforms in order; None when there are none.

    Args:
        tables: ``{ use = "RandomCrop", size = 32, padding = 4 }``: ``use`` names a class of torchvision.transforms.v2,
            the rest are its arguments. ``interpolation``, ``policy`` and ``dtype`` are written as text, and a list of
            such tables (``RandomApply``, ``RandomChoice``) as a list.
        where: the key path of ``tables``.

    Raises:
        StillhouseError: every table that cannot be used, with the nearest names.
    """
    transforms = _build_all(tables, where)
    if not transforms:
        return None
    apply: Callable[[Tensor], Tensor] = transforms[0] if len(transforms) == 1 else v2.Compose(transforms)
    return apply


def _build_all(tables: Sequence[Mapping[str, Any]], where: str) -> list[Any]:
    built: list[Any] = []
    faults: list[Fault] = []
    for index, table in enumerate(tables):
        try:
            built.append(_build(table, f"{where}[{index}]"))
        except StillhouseError as error:
            faults += error.faults
    if faults:
        raise StillhouseError(faults=faults)
    return built


def _build(table: Mapping[str, Any], where: str) -> Any:
    if "use" not in table:
        raise StillhouseError("this key is missing", where=f"{where}.use", hint='{ use = "RandomCrop", ... }')
    name = table["use"]
    known = _classes()
    if name not in known:
        raise StillhouseError(
            f"torchvision.transforms.v2 has no transform {name!r}",
            where=f"{where}.use",
            hint=did_you_mean(str(name), known),
        )
    if name in _OF_BATCHES:
        raise StillhouseError(f"{name} mixes the samples of a batch, and these see one sample", where=f"{where}.use")
    args = {key: _argument(key, value, f"{where}.{key}") for key, value in table.items() if key != "use"}
    return call(getattr(v2, name), args, where)


def _classes() -> list[str]:
    classes = {n: kind for n, kind in vars(v2).items() if isinstance(kind, type)}
    return [n for n, kind in classes.items() if issubclass(kind, v2.Transform) and kind is not v2.Transform]


def _argument(key: str, value: Any, where: str) -> Any:
    if isinstance(value, str) and key in _ENUMS:
        names = [member.value for member in _ENUMS[key]]
        if value not in names:
            raise StillhouseError(f"{value!r} is no {key}", where=where, hint=did_you_mean(value, names))
        return _ENUMS[key](value)
    if isinstance(value, str) and key == "dtype":
        dtype = getattr(torch, value, None)
        if not isinstance(dtype, torch.dtype):
            raise StillhouseError(f"{value!r} is no dtype", where=where, hint="uint8 or float32")
        return dtype
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) and "use" in v for v in value):
        return _build_all(value, where)
    return value
