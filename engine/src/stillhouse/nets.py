"""Three small networks with named stages: convnet, vit, mlp. They train on small images within seconds on one core."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.errors import StillhouseError

__all__ = ["ConvNet", "Mlp", "VisionTransformer", "convnet", "mlp", "vit"]


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise StillhouseError(f"{value} is below 1", where=name)


class ConvNet(nn.Module):
    """Three stages of 3x3 convolutions with BatchNorm and ReLU; see :func:`convnet`.

    Attributes:
        stem: (B, in_channels, H, W) -> (B, width, H, W).
        stage1: -> (B, width, H, W).
        stage2: -> (B, 2 width, H/2, W/2), rounded up.
        stage3: -> (B, 4 width, H/4, W/4), the last map.
        pool: -> (B, 4 width), the mean over positions.
        head: -> (B, num_classes), logits.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int, depth: int) -> None:
        super().__init__()
        _at_least_one(num_classes=num_classes, in_channels=in_channels, width=width, depth=depth)
        self.stem = _conv(in_channels, width)
        self.stage1 = _stage(width, width, depth, stride=1)
        self.stage2 = _stage(width, 2 * width, depth, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, depth, stride=2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.head(self.pool(x))
        return logits


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, stride), *(_conv(outputs, outputs) for _ in range(depth - 1)))


def convnet(num_classes: int, in_channels: int = 3, width: int = 16, depth: int = 1) -> ConvNet:
    """A small convolutional network for images from 8x8 to 64x64.

    Args:
        num_classes: logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage; the next have twice and four times as many.
        depth: convolutions in each stage.

    Raises:
        StillhouseError: a number below 1.
    """
    return ConvNet(num_classes, in_channels, width, depth)


class Block(nn.Module):
    """One pre-norm transformer block: attention, then a two-layer perceptron, each added to its input."""

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        b, n, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, dim)
        x = x + self.proj(mixed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021); see :func:`vit`. N = 1 + number of patches, class token first.

    Attributes:
        embed: (B, in_channels, H, W) -> (B, dim, H/patch, W/patch).
        blocks: ``blocks.0``, ...: (B, N, dim) -> (B, N, dim).
        norm: the final LayerNorm (B, N, dim).
        head: the class token (B, dim) -> logits (B, num_classes).
    """

    def __init__(
        self, num_classes: int, in_channels: int, grid: tuple[int, int], patch: int, dim: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.empty(1, 1, dim))
        self.position = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, ratio=4) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        # Large models start at 0.02. At this size that takes four times the steps: on 8x8 digits 49% after 120 steps
        # against 94% with positions on the scale of the patches.
        for parameter in (self.cls, self.position):
            nn.init.trunc_normal_(parameter, std=0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(patches), -1, -1), patches], dim=1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit(
    num_classes: int,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    patch: int | None = None,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
) -> VisionTransformer:
    """A tiny vision transformer.

    Args:
        num_classes: logits.
        in_channels: channels of the images.
        image_size: height and width of the images; one number for a square.
        patch: side of a patch in pixels; None: the smallest from 2 on that divides the image into at most 8x8 patches.
        dim: size of a token.
        depth: number of blocks.
        heads: attention heads; they divide ``dim``.

    Raises:
        StillhouseError: a number below 1, patches that do not tile the image, or heads that do not divide ``dim``.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch is None:
        sides = range(2, max(height, width) + 1)
        fits = (p for p in sides if height % p == width % p == 0 and max(height, width) <= 8 * p)
        patch = next(fits, 1)
    _at_least_one(num_classes=num_classes, in_channels=in_channels, patch=patch, dim=dim, depth=depth, heads=heads)
    if height % patch or width % patch:
        raise StillhouseError(f"patches of {patch} do not tile images of {height}x{width}", where="patch")
    if dim % heads:
        raise StillhouseError(f"{heads} heads do not divide dim = {dim}", where="heads")
    return VisionTransformer(num_classes, in_channels, (height // patch, width // patch), patch, dim, depth, heads)


class Mlp(nn.Module):
    """Fully connected layers on the flattened input; see :func:`mlp`.

    Attributes:
        layers: ``layers.0``, ...: each linear and ReLU, -> (B, width).
        head: (B, width) -> logits (B, num_classes).
    """

    def __init__(self, num_classes: int, in_features: int, width: int, depth: int) -> None:
        super().__init__()
        _at_least_one(num_classes=num_classes, in_features=in_features, width=width, depth=depth)
        sizes = [in_features] + [width] * depth
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with in_features numbers a sample -> logits (B, num_classes)."""
        logits: Tensor = self.head(self.layers(x.flatten(1)))
        return logits


def mlp(num_classes: int, in_features: int, width: int = 128, depth: int = 2) -> Mlp:
    """A multilayer perceptron on flattened inputs.

    Args:
        num_classes: logits.
        in_features: numbers in one input: C * H * W for images.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Raises:
        StillhouseError: a number below 1.
    """
    return Mlp(num_classes, in_features, width, depth)
