"""Training-time augmentation: tables that name classes of torchvision.transforms.v2."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
import torchvision.transforms.v2 as v2
from torchvision import tv_tensors
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from stillhouse.config.signatures import call, read_parameters
from stillhouse.data.transform_chain import TransformChain
from stillhouse.data.transform_stages import NamedTransform
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean

__all__ = ["build_crops", "build_transforms", "chain"]

_OF_BATCHES = ("CutMix", "MixUp")
_ENUMS: dict[str, type[enum.Enum]] = {"interpolation": InterpolationMode, "policy": AutoAugmentPolicy}


def build_transforms(
    tables: Sequence[Mapping[str, Any]],
    where: str = "data.transforms",
    kind: str = "class",
    ignore: int | None = None,
) -> TransformChain | None:
    """Build the chain that applies the transforms in order: to an image (C, H, W), to one and its target, or to a batch's.

    Args:
        tables: ``{ use = "RandomCrop", size = 32, padding = 4 }``: ``use`` names a class of torchvision.transforms.v2,
            the rest are its arguments. ``interpolation``, ``policy`` and ``dtype`` are written as text, and a list of
            such tables (``RandomApply``, ``RandomChoice``) as a list.
        where: the key path of ``tables``.
        kind: the targets' kind; targets are transformed with their images.
        ignore: for masks, the value of pixels that enter the frame from outside.

    Returns:
        The chain; None when there are no transforms.

    Raises:
        StillhouseError: every table that cannot be used, with the nearest names.
    """
    built = _build_all(tables, where, _OutsideFill(kind, ignore))
    for index, transform in enumerate(built):
        if type(transform) is v2.Normalize:
            warnings.warn(
                f"{where}[{index}]: Normalize changes what is trained on, and not what is measured; data.normalize does both",
                StillhouseWarning,
                stacklevel=2,
            )
    named = tuple(NamedTransform(transform, f"{where}[{index}]") for index, transform in enumerate(built))
    return TransformChain(named) if named else None


def chain(*chains: TransformChain | None) -> TransformChain | None:
    """Make one chain of ``chains``; None when there are none."""
    transforms = tuple(transform for one in chains if one is not None for transform in one.transforms)
    return TransformChain(transforms) if transforms else None


def build_crops(size: tuple[int, int]) -> tuple[TransformChain, TransformChain]:
    """Build a random crop to height and width ``size`` for training, and a central one for evaluation."""
    at_random, middle = (
        TransformChain((NamedTransform(crop(list(size)), "data.crop"),)) for crop in (v2.RandomCrop, v2.CenterCrop)
    )
    return at_random, middle


@attrs.frozen
class _OutsideFill:
    """Fills the target where a transform moves pixels in from outside the frame: ``ignore`` in masks, holes in depths."""

    kind: str
    ignore: int | None

    def add_to(self, args: dict[str, Any], takes: Collection[str], name: str, where: str) -> dict[str, Any]:
        """Return a transform's arguments, with the target's fill value where it takes one."""
        if self.kind not in ("mask", "depth") or "fill" not in takes:
            return args
        if name == "RandomCrop" and not (args.get("padding") or args.get("pad_if_needed")):
            return args
        if self.kind == "mask" and self.ignore is None:
            raise StillhouseError(
                f"{name} moves unlabelled pixels into masks, which needs an ignore value",
                where=where,
                hint="[data] args = { ignore = 255 }",
            )
        given = args.get("fill")
        return {**args, "fill": {tv_tensors.Mask: self.ignore or 0, "others": 0 if given is None else given}}


def _build_all(tables: Sequence[Mapping[str, Any]], where: str, outside: _OutsideFill) -> list[Any]:
    built: list[Any] = []
    faults: list[Fault] = []
    for index, table in enumerate(tables):
        try:
            built.append(_build(table, f"{where}[{index}]", outside))
        except StillhouseError as error:
            faults += error.faults
    if faults:
        raise StillhouseError(faults=faults)
    return built


def _build(table: Mapping[str, Any], where: str, outside: _OutsideFill) -> Any:
    if "use" not in table:
        raise StillhouseError("missing key", where=f"{where}.use", hint='{ use = "RandomCrop", ... }')
    name = table["use"]
    known = _list_transforms()
    if name not in known:
        raise StillhouseError(
            f"torchvision.transforms.v2 has no transform {name!r}",
            where=f"{where}.use",
            hint=did_you_mean(str(name), known),
        )
    if name in _OF_BATCHES:
        raise StillhouseError(
            f"{name} mixes the samples of a batch and must be in [data] batch_transforms", where=f"{where}.use"
        )
    args = {
        key: _convert_argument(key, value, f"{where}.{key}", outside) for key, value in table.items() if key != "use"
    }
    transform = getattr(v2, name)
    return call(transform, outside.add_to(args, read_parameters(transform)[0], name, where), where)


def _list_transforms() -> list[str]:
    classes = {n: kind for n, kind in vars(v2).items() if isinstance(kind, type)}
    return [n for n, kind in classes.items() if issubclass(kind, v2.Transform) and kind is not v2.Transform]


def _convert_argument(key: str, value: Any, where: str, outside: _OutsideFill) -> Any:
    if isinstance(value, str) and key in _ENUMS:
        names = [member.value for member in _ENUMS[key]]
        if value not in names:
            raise StillhouseError(f"unknown {key} {value!r}", where=where, hint=did_you_mean(value, names))
        return _ENUMS[key](value)
    if isinstance(value, str) and key == "dtype":
        dtype = getattr(torch, value, None)
        if not isinstance(dtype, torch.dtype):
            raise StillhouseError(f"unknown dtype {value!r}", where=where, hint="uint8 or float32")
        return dtype
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) and "use" in v for v in value):
        return _build_all(value, where, outside)
    return value
