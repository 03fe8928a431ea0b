"""Stages of 3x3 convolutions, and the classifier made of them: ConvEncoder and convnet."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor, nn

from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.models.nets.checks import check_counts

__all__ = ["ConvEncoder", "ConvNet", "Norm", "conv", "convnet"]

Norm = Literal["batch", "group", "none"]
"""Normalisation between convolutions: BatchNorm; GroupNorm, which keeps samples apart; or none."""


class ConvEncoder(nn.Module):
    """Stages of 3x3 convolutions, each with normalisation and ReLU; every stage after the first halves the map.

    Attributes:
        channels: of each stage: width, 2 width, 4 width, ...
        stem: (B, in_channels, H, W) -> (B, width, H/stride, W/stride), rounded up as everywhere here.
        stage1: -> (B, width, H/stride, W/stride).
        stage2: -> (B, 2 width, H/(2 stride), W/(2 stride)).
        stage3: -> (B, 4 width, H/(4 stride), W/(4 stride)); and so on.
    """

    def __init__(self, in_channels: int, width: int, depth: int, stages: int, stride: int, norm: Norm) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, width=width, depth=depth, stages=stages, stride=stride)
        if norm not in get_args(Norm):
            raise StillhouseError(
                f"must be one of {', '.join(get_args(Norm))}, got {norm!r}",
                where="norm",
                hint=did_you_mean(norm, get_args(Norm)),
            )
        self.channels = tuple(width * 2**k for k in range(stages))
        self.stem = conv(in_channels, width, stride, norm=norm)
        inputs = width
        for number, outputs in enumerate(self.channels, start=1):
            first = conv(inputs, outputs, 1 if number == 1 else 2, norm=norm)
            more = (conv(outputs, outputs, norm=norm) for _ in range(depth - 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *more))
            inputs = outputs

    def maps(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the stages' maps, finest first."""
        found = []
        x = self.stem(x)
        for number in range(1, len(self.channels) + 1):
            x = getattr(self, f"stage{number}")(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> the last stage's map."""
        return self.maps(x)[-1]


class ConvNet(ConvEncoder):
    """The encoder's stages, their mean and a linear layer; see :func:`convnet`.

    Attributes:
        stem: (B, in_channels, H, W) -> (B, width, H, W), with ``stride = 1``.
        stage1: -> (B, width, H, W).
        stage2: -> (B, 2 width, H/2, W/2), rounded up.
        stage3: -> (B, 4 width, H/4, W/4), with three stages the last map.
        pool: -> (B, 4 width), the mean over positions.
        head: -> (B, num_classes), logits.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width: int, depth: int, stages: int, stride: int, norm: Norm
    ) -> None:
        check_counts(num_classes=num_classes)
        super().__init__(in_channels, width, depth, stages, stride, norm)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(self.channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        logits: Tensor = self.head(self.pool(super().forward(x)))
        return logits


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3, *, norm: Norm = "batch") -> nn.Sequential:
    """A convolution, its normalisation and ReLU: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride), rounded up."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=norm == "none")]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(outputs))
    elif norm == "group":
        layers.append(nn.GroupNorm(math.gcd(8, outputs), outputs))
    return nn.Sequential(*layers, nn.ReLU())


def convnet(
    num_classes: int,
    in_channels: int = 3,
    width: int = 16,
    depth: int = 1,
    stages: int = 3,
    stride: int = 1,
    norm: Norm = "batch",
) -> ConvNet:
    """A small convolutional network that classifies images from 8x8 to 64x64, or larger ones with more stages.

    Args:
        num_classes: logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage; each further stage has twice as many.
        depth: convolutions in each stage.
        stages: how many, ``stage1`` on.
        stride: of the stem.
        norm: ``batch``; ``group``: GroupNorm (of 8 groups, or fewer where they don't divide the channels), whose output
            for a sample does not depend on the batch; ``none``.

    Raises:
        StillhouseError: a number below 1, another ``norm``.
    """
    return ConvNet(num_classes, in_channels, width, depth, stages, stride, norm)
