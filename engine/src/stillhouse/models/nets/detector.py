"""A small detector for one CPU core: torchvision's FCOS on the stages that convnet has."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.models.nets.checks import check_counts
from stillhouse.models.nets.convolutional import ConvEncoder, Norm
from stillhouse.models.nets.transformer import to_height_and_width

if TYPE_CHECKING:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.fcos import FCOSHead

__all__ = ["Pyramid", "detector"]


class Pyramid(nn.Module):
    """The encoder's stages from the second on, brought to one number of channels from the coarsest down.

    Attributes:
        encoder: its stages are ``encoder.stage1``, ... as the ones of ``convnet``.
        fpn: the feature pyramid (Lin et al. 2017) on ``stage2`` and those after it.
        out_channels: of each map, where torchvision's detectors look for it.
    """

    def __init__(self, encoder: ConvEncoder, channels: int) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.encoder = encoder
        self.fpn = FeaturePyramidNetwork(list(encoder.channels[1:]), channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(B, in_channels, H, W) -> maps (B, channels, h, w), finest first."""
        maps = self.encoder.maps(x)[1:]
        found: OrderedDict[str, Tensor] = self.fpn(OrderedDict((f"stage{k}", m) for k, m in enumerate(maps, start=2)))
        return found


def detector(
    num_classes: int,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 128,
    width: int = 16,
    depth: int = 1,
    stages: int = 4,
    norm: Norm = "group",
    channels: int | None = None,
) -> FCOS:
    """A small one-stage detector without anchors (FCOS, Tian et al. 2019), for images of some 100 pixels.

    It is called as torchvision's detectors are, and takes inputs from 0 to 1 (``[data] normalize = "none"``). Its features:
    ``backbone.encoder.stage1``, ..., and ``backbone.fpn.layer_blocks.0``, ....

    Args:
        num_classes: the classes and the background.
        in_channels: channels of the images.
        image_size: height and width of the images; one number for a square.
        width: channels of the encoder's first stage; each further stage has twice as many. The pyramid and the heads follow.
        depth: convolutions in each encoder stage.
        stages: encoder stages, of stride 2, 4, 8, ...; boxes are found on the second and those after it, small ones on
            the finer maps.
        norm: of the encoder: ``group``, ``batch`` (with some images in each batch only) or ``none``.
        channels: of the maps that boxes are found on and of the heads' convolutions, an even number; None: four times the
            width.

    Raises:
        StillhouseError: a number below 1, another ``norm``, a single stage, or channels that are odd.
    """
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    check_counts(num_classes=num_classes, width=width)
    channels = 4 * width if channels is None else channels
    check_counts(channels=channels)
    if stages < 2:
        raise StillhouseError(
            f"must be >= 2, got {stages}", where="stages", hint="boxes are found from the second stage on"
        )
    if channels % 2:
        raise StillhouseError(
            f"must be even, got {channels}",
            where="channels",
            hint="the heads' GroupNorm takes two channels or more at once",
        )
    pyramid = Pyramid(ConvEncoder(in_channels, width, depth, stages, 2, norm), channels)
    strides = tuple((2**k,) for k in range(2, stages + 1))
    size = to_height_and_width(image_size)
    return FCOS(
        pyramid,
        num_classes,
        min_size=min(size),
        max_size=max(size),
        image_mean=[0.5] * in_channels,
        image_std=[0.25] * in_channels,
        anchor_generator=AnchorGenerator(strides, ((1.0,),) * len(strides)),
        head=_make_head(channels, num_classes),
    )


def _make_head(channels: int, num_classes: int) -> FCOSHead:
    """FCOS's head for maps of any even number of channels: torchvision's own takes multiples of 32 alone."""
    from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

    # One channel a group would be nothing but its sign on the smallest maps.
    norm = partial(nn.GroupNorm, 32 if channels % 32 == 0 else channels // 2)
    with torch.device("meta"):  # its parts are replaced: nothing is drawn for them
        head = FCOSHead(32, 1, num_classes)
    head.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
    head.regression_head = FCOSRegressionHead(channels, 1, norm_layer=norm)
    return head
