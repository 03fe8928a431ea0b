"""A teacher that was trained on other data gets its inputs as it knew them: its own scale, size and channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError

__all__ = ["InputConversion", "fit_inputs"]

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def fit_inputs(teacher: nn.Module, own: DataInfo, info: DataInfo, where: str = "teacher.recipe") -> list[str]:
    """Have ``teacher`` convert the student's inputs to what it was trained on, before its forward pass.

    Mean and standard deviation of the student's data are undone and the teacher's own put in their place; grey becomes
    colour and colour grey; images are resized, on the device, to those it was measured on. Detectors, which resize their
    inputs themselves, keep the size. Nothing is attached where nothing differs, so that the teacher costs what it did.

    Args:
        teacher: the frozen model; layers keep their paths.
        own: the data that it was trained on.
        info: the student's data, whose inputs it will get.
        where: the recipe's key that names it, for the fault.

    Returns:
        What is converted, in words.

    Raises:
        StillhouseError: inputs that cannot be converted.
    """
    if len(own.input_shape) != len(info.input_shape):
        raise StillhouseError(
            f"the teacher was trained on inputs of shape {own.input_shape}, and the student's are {info.input_shape}",
            where=where,
        )
    images = len(info.input_shape) == 3
    channels, wanted = info.input_shape[0], own.input_shape[0]
    size = _find_size(own, info) if images else None
    if channels == wanted and (own.mean, own.std) == (info.mean, info.std) and size is None:
        return []
    if channels != wanted and not (images and {channels, wanted} == {1, 3}):
        what = "channels" if images else "components"
        raise StillhouseError(
            f"the teacher was trained on {wanted} {what}, and the student's inputs have {channels}",
            where=where,
            hint="1 and 3 can be converted; else train the teacher on such inputs" if images else "",
        )
    convert = InputConversion(info, own, size)
    teacher.register_buffer("_stillhouse_scale", convert.scale, persistent=False)
    teacher.register_buffer("_stillhouse_shift", convert.shift, persistent=False)
    teacher._stillhouse_size = size  # type: ignore[assignment]  # plain data, so that a cache's key has it
    teacher.register_forward_pre_hook(convert)
    told = [] if size is None else [f"resized to {size[0]}x{size[1]}"]
    told += [] if channels == wanted else [f"{channels} to {wanted} channels"]
    if (own.mean, own.std) != (info.mean, info.std):
        told.append(f"normalised by {_words(own)} instead of {_words(info)}")
    return told


def _find_size(own: DataInfo, info: DataInfo) -> tuple[int, int] | None:
    """The size to bring images to; None where both were made alike, or the model resizes by itself."""
    known = [(each.input_shape[1:], (each.eval_shape or each.input_shape)[1:]) for each in (own, info)]
    height, width = known[0][1]
    fits = known[0] == known[1] or set(known[1]) == {(height, width)}
    return None if fits or info.target == "boxes" else (height, width)


def _words(info: DataInfo) -> str:
    if not info.mean:
        return "nothing"
    shown = [
        ", ".join(f"{v:.3g}" for v in values[:3]) + (", ..." if len(values) > 3 else "")
        for values in (info.mean, info.std)
    ]
    return f"mean {shown[0]} and deviation {shown[1]}"


class InputConversion:
    """``x * scale + shift`` in between two changes of channels; the tensors are the teacher's, and move with it.

    Args:
        info: the data that inputs come from.
        own: the data that they are made to look like.
        size: height and width to resize images to; None leaves them.

    Attributes:
        stretch: of the last images, by how much height and width were divided; None: they were not resized.
    """

    def __init__(self, info: DataInfo, own: DataInfo, size: tuple[int, int] | None = None) -> None:
        before, after = info.input_shape[0], own.input_shape[0]
        mean, std = _by_channel(info.mean, before, 0.0), _by_channel(info.std, before, 1.0)
        own_mean, own_std = _by_channel(own.mean, after, 0.0), _by_channel(own.std, after, 1.0)
        mix = torch.eye(before)
        if before < after:
            mix = torch.ones(after, before)
        elif before > after:
            mix = torch.tensor([_LUMA])
        # (mix (x std + mean) - own_mean) / own_std, as one product and one sum by channel.
        self.scale = (mix * std) / own_std[:, None]
        self.shift = (mix @ mean - own_mean) / own_std
        self.ndim = len(info.input_shape) + 1
        self.size = size
        self.stretch: tuple[float, float] | None = None

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook: the model's arguments with the first one converted."""
        x, *rest = inputs
        if not isinstance(x, Tensor) or x.ndim != self.ndim:
            return inputs
        scale, shift = module._stillhouse_scale, module._stillhouse_shift
        like = (-1, *[1] * (self.ndim - 2))
        if scale.shape[0] == scale.shape[1]:
            x = x * scale.diagonal().reshape(like) + shift.reshape(like)
        else:
            # Not einsum, which autocast has in half precision.
            x = (x[:, None] * scale[:, :, None, None]).sum(2) + shift.reshape(like)
        return (self._resize(x), *rest)

    def _resize(self, x: Tensor) -> Tensor:
        self.stretch = None
        if self.size is None or tuple(x.shape[-2:]) == self.size:
            return x
        height, width = x.shape[-2:]
        self.stretch = (height / self.size[0], width / self.size[1])
        smaller = self.size[0] < height or self.size[1] < width
        return interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=smaller)


def _by_channel(values: tuple[float, ...], channels: int, otherwise: float) -> Tensor:
    """One number a channel, or a component of vectors; one alone is that of all.

    Raises:
        StillhouseError: another number of them.
    """
    if len(values) not in (0, 1, channels):
        raise StillhouseError(
            f"has {len(values)} numbers, and the inputs that it is for have {channels} channels",
            where="teacher.normalize",
            hint="a number for each channel, or one for all",
        )
    return torch.tensor(values if len(values) == channels else [values[0] if values else otherwise] * channels)
