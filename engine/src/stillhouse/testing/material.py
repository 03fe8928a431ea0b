"""What plugins are tried on: separable images of three classes, and a network with the same layers in three layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

__all__ = ["LAYERS", "LAYOUTS", "SmallNet", "make_data", "make_tables"]

Layout = Literal["vectors", "tokens", "maps"]
LAYOUTS: tuple[Layout, ...] = ("vectors", "tokens", "maps")
LAYERS = ("stem", "stage1", "stage2", "stage3", "pool", "head")
"""The layers of :class:`SmallNet`, whatever its layout; ``pool`` gives vectors (B, 4 width) in each of them."""

CLASSES = 3


def make_data(train: int = 24, val: int = 9, test: int = 9) -> dict[str, TensorDataset]:
    """Images (1, 8, 8), float32, of three classes that a linear model can tell, by split; the same at each call."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> TensorDataset:
        labels = torch.arange(n) % CLASSES
        images = torch.randn(n, 1, 8, 8, generator=generator) * 0.5
        images[torch.arange(n), 0, 2 * labels] += 2.0
        return TensorDataset(images, labels)

    return {"train": split(train), "val": split(val), "test": split(test)}


class SmallNet(nn.Module):
    """A stem, three stages, a pooling layer and a head, with batch statistics and dropout on the way.

    Args:
        num_classes: outputs of the head.
        in_channels: of the images (B, in_channels, 8, 8).
        width: channels of the first stage; the second and third have 2 and 4 times as many.
        layout: what the stages give: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W).
        dropout: before the head.
    """

    def __init__(
        self,
        num_classes: int = CLASSES,
        in_channels: int = 1,
        width: int = 4,
        layout: Layout = "maps",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.layout = layout
        make = {"vectors": _vectors, "tokens": _tokens, "maps": _maps}[layout]
        self.stem, self.stage1, self.stage2, self.stage3 = make(in_channels, width)
        self.pool: nn.Module = _Mean() if layout != "vectors" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, 8, 8) -> logits (B, num_classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.head(self.dropout(self.pool(x)))
        return logits


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, N, C) -> (B, C)."""
        return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)


class _ToTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H W, C)."""
        return x.flatten(2).transpose(1, 2)


def _maps(channels: int, width: int) -> list[nn.Module]:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU()
        )

    sizes = [(channels, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
    return [block(*size) for size in sizes]


def _tokens(channels: int, width: int) -> list[nn.Module]:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU())

    stem = nn.Sequential(nn.Conv2d(channels, width, 2, 2), nn.BatchNorm2d(width), _ToTokens())
    return [stem, block(width, width), block(width, 2 * width), block(2 * width, 4 * width)]


def _vectors(channels: int, width: int) -> list[nn.Module]:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.LeakyReLU())

    stem = nn.Sequential(nn.Flatten(), block(64 * channels, width))
    return [stem, block(width, width), block(width, 2 * width), block(2 * width, 4 * width)]


def make_tables(layout: Layout = "maps", *, teacher_width: int = 4) -> dict[str, Any]:
    """A recipe's tables: six steps in two epochs, on the CPU, of a student and a random teacher of one shape."""
    net = {"model": "stillhouse.testing.material:SmallNet"}
    return {
        "run": {
            "name": "check",
            "epochs": 2,
            "seed": 3,
            "device": "cpu",
            "log_every": 2,
            "figures": False,
            "test": False,
        },
        "data": {"name": "stillhouse.testing.material:make_data", "batch_size": 8, "normalize": "none"},
        "student": {**net, "args": {"layout": layout}},
        "teacher": {**net, "args": {"layout": layout, "width": teacher_width}, "random": True},
        "optimizer": {"lr": 1e-2},
    }


def change_tables(tables: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``tables`` with the keys of ``changes`` put into the tables of their names."""
    changed = {**tables}
    for table, keys in changes.items():
        changed[table] = {**changed.get(table, {}), **keys}
    return changed
