"""Modules around an exported student: one reads its output, one normalises its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.contract.task import Task
from stillhouse.loop.tapped_model import TappedModel

__all__ = ["Output", "Preprocessing"]


class Output(nn.Module):
    """The student from an input to its task's output, read as in training."""

    def __init__(self, student: nn.Module, task: Task) -> None:
        super().__init__()
        self.student = student
        self._tapped = TappedModel(student, "student", task)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """(B, ...) -> the output of interest."""
        return self._tapped.output(x)


class Preprocessing(nn.Module):
    """(x - mean) / std before a model, by channel.

    The buffers are not called ``mean`` and ``std``: so torch 2.6 calls what a model computes by these operations, and writes two of a name.
    """

    channel_mean: Tensor
    channel_std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], ndim: int) -> None:
        super().__init__()
        shape = (len(mean), *[1] * (ndim - 2))
        self.model = model
        self.register_buffer("channel_mean", torch.tensor(mean).reshape(shape))
        self.register_buffer("channel_std", torch.tensor(std).reshape(shape))
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """(B, ...), 0 to 1 -> the model's output."""
        return self.model((x - self.channel_mean) / self.channel_std)

    def undo(self, x: Tensor) -> Tensor:
        """Return normalised inputs to 0 to 1."""
        return x * self.channel_std + self.channel_mean
