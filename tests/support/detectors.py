"""Images with boxes, and torchvision's one-stage detectors in small, without batch statistics: for tests of detection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

SIDE = 64


class Scenes(Dataset):
    """Bright squares on grey, as many as the sample's number modulo 4: none in the first."""

    classes = ("square", "bar")

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        if i >= self.n:
            raise IndexError
        image, boxes, labels = torch.full((3, SIDE, SIDE), 0.5), [], []
        for k in range(i % 4):
            y, x, height, width = 4 + 20 * k, 3 + (7 * i + 11 * k) % 30, 16, 16 + 8 * (k % 2)
            image[:, y : y + height, x : x + width] = 1.0 - k % 2
            boxes.append([x, y, x + width, y + height])
            labels.append(k % 2)
        target = {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels).long()}
        return image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(i)), target


def scenes(n: int = 8) -> dict[str, Scenes]:
    """``n`` images to train on; the first 8 are measured on."""
    return {"train": Scenes(n), "val": Scenes(8)}


class Body(nn.Sequential):
    """Three convolutions of stride 2, 2, 4 to one map (B, 32, 4, 4)."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 4, 1)
        )


SIZED = {"min_size": SIDE, "max_size": SIDE}


def small_ssd(num_classes: int) -> SSD:
    """One map, four shapes of boxes."""
    body = Body()
    body.out_channels = [32]  # a list for SSD, a number for the others
    return SSD(body, DefaultBoxGenerator([[2]], scales=[0.25, 0.4]), (SIDE, SIDE), num_classes)


def small_retinanet(num_classes: int, score_thresh: float = 0.05) -> RetinaNet:
    """One map, three shapes of boxes."""
    anchors = AnchorGenerator(((16,),), ((0.5, 1.0, 2.0),))
    return RetinaNet(Body(), num_classes, anchor_generator=anchors, score_thresh=score_thresh, **SIZED)


def small_faster_rcnn(num_classes: int) -> FasterRCNN:
    """Two stages, whose proposals are drawn at random in training."""
    anchors = AnchorGenerator(((16,),), ((0.5, 1.0, 2.0),))
    return FasterRCNN(Body(), num_classes, rpn_anchor_generator=anchors, **SIZED)


def detection_tables(model: str, **changes: Any) -> dict[str, Any]:
    """A recipe's tables: 8 images in batches of 4, one epoch."""
    from support import TESTS

    run = {"name": "boxes", "epochs": 1, "seed": 3, "device": "cpu", "log_every": 10, "base": str(TESTS), "threads": 1}
    return {
        "run": {**run, **changes.pop("run", {})},
        "data": {
            "name": "support.detectors:scenes",
            "args": {"target": "boxes", "n": changes.pop("n", 8)},
            "batch_size": 4,
            "normalize": "none",
        },
        "task": {"name": "detection"},
        "student": {"model": model, "args": changes.pop("args", {})},
        "optimizer": {"lr": 1e-3},
        **changes,
    }
