"""Small encoder-decoders, from images to maps: unet and dense_vit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.models.nets.checks import check_counts
from stillhouse.models.nets.convolutional import ConvEncoder, Norm, conv
from stillhouse.models.nets.transformer import VitEncoder, to_height_and_width

__all__ = ["DenseVit", "UNet", "dense_vit", "unet"]


class Up(nn.Module):
    """One step of a decoder: a coarse map, halved in channels, is laid over the finer one and both are mixed."""

    def __init__(self, coarse: int, fine: int, norm: Norm) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.mix = conv(2 * fine, fine, norm=norm)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, coarse, h, w) and (B, fine, H, W) -> (B, fine, H, W)."""
        coarse = _resize(self.reduce(coarse), fine)
        mixed: Tensor = self.mix(torch.cat([coarse, fine], dim=1))
        return mixed


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) on :class:`stillhouse.models.nets.ConvEncoder`; see :func:`unet`.

    Attributes:
        encoder: its stages are ``encoder.stage1``, ... as the ones of ``convnet``.
        decoder: ``decoder.stage2`` gives the map that has the size and the channels of ``encoder.stage2``'s, after what is
            deeper was mixed in; the last encoder stage has none.
        head: ``decoder.stage1`` (B, width, H/stride, W/stride) -> (B, num_classes, H/stride, W/stride).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: int,
        depth: int,
        stages: int,
        stride: int,
        norm: Norm,
        residual: bool,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes)
        _check_residual(residual, num_classes, in_channels)
        self.residual = residual
        self.encoder = ConvEncoder(in_channels, width, depth, stages, stride, norm)
        channels = self.encoder.channels
        self.decoder = nn.ModuleDict(
            {f"stage{k}": Up(channels[k], channels[k - 1], norm) for k in range(stages - 1, 0, -1)}
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        if residual:
            _start_at_zero(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, num_classes, H, W)."""
        *finer, y = self.encoder.maps(x)
        for up, fine in zip(self.decoder.values(), reversed(finer), strict=True):
            y = up(y, fine)
        y = _resize(self.head(y), x)
        return x + y if self.residual else y


def unet(
    num_classes: int,
    in_channels: int = 3,
    width: int = 16,
    depth: int = 1,
    stages: int = 4,
    stride: int = 2,
    norm: Norm = "batch",
    residual: bool = False,
) -> UNet:
    """A small U-Net: a vector of ``num_classes`` numbers for every pixel, whatever the image's size.

    Args:
        num_classes: channels of the output: classes of a segmentation, 1 for depth, an image's channels for restoration.
        in_channels: channels of the images.
        width: channels of the first stage; each further stage has twice as many.
        depth: convolutions in each encoder stage.
        stages: encoder stages; each after the first halves the map.
        stride: of the stem. With 2 the finest map has half the image's size, at a quarter of the cost, and the output is
            interpolated; 1 keeps every pixel, as restoration needs it.
        norm: ``batch``; ``group``, whose output for a sample does not depend on the batch; ``none``.
        residual: the output is the input plus what the network gives, which starts at zero: for restoration.

    Raises:
        StillhouseError: a number below 1, another ``norm``, or a residual of another number of channels.
    """
    return UNet(num_classes, in_channels, width, depth, stages, stride, norm, residual)


class DenseVit(nn.Module):
    """A vision transformer whose tokens become a map again; see :func:`dense_vit`.

    Attributes:
        encoder: ``encoder.blocks.0``, ...: tokens (B, N, dim), N patches in row-major order, no class token;
            ``encoder.norm`` the last ones.
        decoder: the tokens' map (B, dim, H/patch, W/patch) -> (B, width, ...), doubled in size while it is smaller than
            the image: ``decoder.0``, ....
        head: -> (B, num_classes, ...), which is interpolated to the image's size.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        grid: tuple[int, int],
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        width: int,
        residual: bool,
    ) -> None:
        super().__init__()
        _check_residual(residual, num_classes, in_channels)
        self.residual = residual
        self.grid, self.patch = grid, patch
        self.encoder = VitEncoder(in_channels, grid, patch, dim, depth, heads, class_token=False)
        self.encoder.initialise()
        steps = max(1, (patch // 2).bit_length())  # the last one at half the image's size or finer
        # GroupNorm, as a transformer's samples don't meet in a batch either.
        self.decoder = nn.ModuleList(conv(dim if k == 0 else width, width, norm="group") for k in range(steps))
        self.head = nn.Conv2d(width, num_classes, 1)
        if residual:
            _start_at_zero(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, num_classes, H, W)."""
        height, width = self.grid[0] * self.patch, self.grid[1] * self.patch
        padded = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))  # to whole patches, below and on the right
        tokens = self.encoder(padded)
        y = tokens.transpose(1, 2).unflatten(2, self.grid)
        for number, layer in enumerate(self.decoder):
            y = layer(y if number == 0 else F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False))
        y = _resize(self.head(y), padded)[..., : x.shape[-2], : x.shape[-1]]
        return x + y if self.residual else y


def dense_vit(
    num_classes: int,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 64,
    patch: int | None = None,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    width: int = 32,
    residual: bool = False,
) -> DenseVit:
    """A tiny vision transformer for dense tasks: tokens, back to a map, a few convolutions.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the images.
        image_size: height and width of the images; one number for a square. They need not be multiples of the patch.
        patch: side of a patch in pixels; None: the smallest from 4 on that makes at most 16x16 patches.
        dim: size of a token.
        depth: number of blocks.
        heads: attention heads; they divide ``dim``.
        width: channels of the decoder.
        residual: the output is the input plus what the network gives, which starts at zero: for restoration.

    Raises:
        StillhouseError: a number below 1, heads that do not divide ``dim``, or a residual of another number of channels.
    """
    height, breadth = to_height_and_width(image_size)
    if patch is None:
        patch = max(4, -(-max(height, breadth) // 16))
    check_counts(
        num_classes=num_classes, in_channels=in_channels, patch=patch, dim=dim, depth=depth, heads=heads, width=width
    )
    if dim % heads:
        raise StillhouseError(f"must divide dim = {dim}, got {heads}", where="heads")
    grid = -(-height // patch), -(-breadth // patch)
    return DenseVit(num_classes, in_channels, grid, patch, dim, depth, heads, width, residual)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """``x`` at the height and width of ``like``, bilinear."""
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _check_residual(residual: bool, outputs: int, in_channels: int) -> None:
    if residual and outputs != in_channels:
        raise StillhouseError(
            f"needs an output of the input's {in_channels} channels, got {outputs}",
            where="residual",
        )


def _start_at_zero(head: nn.Conv2d) -> None:
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
