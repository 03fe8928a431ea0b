"""A teacher that was trained on other data gets its inputs as it knew them: its own scale, its own channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError

__all__ = ["fit_inputs"]

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def fit_inputs(teacher: nn.Module, own: DataInfo, info: DataInfo, where: str = "teacher.recipe") -> None:
    """Have ``teacher`` convert the student's inputs to what it was trained on, before its forward pass.

    Mean and standard deviation of the student's data are undone and the teacher's own put in their place; grey becomes
    colour and colour grey. Nothing is attached where nothing differs, so that the teacher costs what it did.

    Args:
        teacher: the frozen model; layers keep their paths.
        own: the data that it was trained on.
        info: the student's data, whose inputs it will get.
        where: the recipe's key that names it, for the fault.

    Raises:
        StillhouseError: channels that cannot be converted.
    """
    if len(own.input_shape) != 3 or len(info.input_shape) != 3:
        return
    channels, wanted = info.input_shape[0], own.input_shape[0]
    if channels == wanted and (own.mean, own.std) == (info.mean, info.std):
        return
    if channels != wanted and {channels, wanted} != {1, 3}:
        raise StillhouseError(
            f"the teacher was trained on {wanted} channels, and the student's inputs have {channels}",
            where=where,
            hint="1 and 3 can be converted; else train the teacher on such inputs",
        )
    convert = _Conversion(info, own)
    teacher.register_buffer("_stillhouse_scale", convert.scale, persistent=False)
    teacher.register_buffer("_stillhouse_shift", convert.shift, persistent=False)
    teacher.register_forward_pre_hook(convert)


class _Conversion:
    """``x * scale + shift`` in between two changes of channels; the tensors are the teacher's, and move with it."""

    def __init__(self, info: DataInfo, own: DataInfo) -> None:
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

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        if not isinstance(x, Tensor) or x.ndim != 4:
            return inputs
        scale, shift = module._stillhouse_scale, module._stillhouse_shift
        if scale.shape[0] == scale.shape[1]:
            x = x * scale.diagonal()[:, None, None] + shift[:, None, None]
        else:
            x = torch.einsum("oc,bchw->bohw", scale, x) + shift[:, None, None]
        return (x, *rest)


def _by_channel(values: tuple[float, ...], channels: int, otherwise: float) -> Tensor:
    """One number a channel; statistics by pixel, of vectors, don't come here."""
    return torch.tensor(values if len(values) == channels else [otherwise] * channels)
