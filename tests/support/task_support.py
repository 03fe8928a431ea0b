"""What the tests of tasks share: tiny data with targets of each kind, a model for maps, a task's metrics over batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillhouse import Recipe
from stillhouse.data import DataInfo
from stillhouse.tasks import Task
from support import recipe


def info(classes: int = 3, target: str = "mask", shape: tuple[int, ...] = (3, 12, 16), **more: Any) -> DataInfo:
    """Data of ``classes`` classes a, b, c, ..."""
    names = tuple("abcdefghijklmnopqrstuvwxyz"[:classes])
    return DataInfo(
        classes=classes, class_names=names, input_shape=shape, sizes={}, fingerprint="", target=target, **more
    )


def measured(task: Task, data: DataInfo, *batches: Sequence[Any]) -> dict[str, Any]:
    """The task's metrics over batches of (output, target)."""
    engine = Engine(lambda _engine, batch: {"output": batch[0], "target": batch[1], "input": None})
    for name, metric in task.metrics(data).items():
        metric.attach(engine, name)
    return engine.run(list(batches)).metrics


def cut(sizes: Sequence[int], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors in batches of ``sizes``."""
    return list(zip(*(t.split(list(sizes)) for t in tensors), strict=True))


class TinyMap(nn.Module):
    """A convolution for each pixel's answer, ``num_classes`` of them; features (B, width, H, W) at ``body``."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, width, 3, padding=1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes, H, W)."""
        out: Tensor = self.head(torch.relu(self.body(x)))
        return out


def dense_data(kind: str, train: int = 24) -> dict[str, TensorDataset]:
    """Images (3, 12, 12), bright where the square is, with targets that follow from where it is; some have holes."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> TensorDataset:
        images = torch.rand(n, 3, 12, 12, generator=generator) * 0.3
        masks = torch.zeros(n, 12, 12, dtype=torch.int64)
        for i in range(n):
            y, x = torch.randint(0, 8, (2,), generator=generator).tolist()
            masks[i, y : y + 4, x : x + 4] = 1 + i % 2
            images[i, i % 2, y : y + 4, x : x + 4] += 0.7
        if kind == "mask":
            targets = masks.clone()
            targets[:, 0] = 9
            return TensorDataset(images, targets.byte())
        if kind == "depth":
            depth = 1.0 + masks[:, None].float()
            depth[:, :, :, 0] = 0
            return TensorDataset(images, depth)
        if kind == "vector":
            return TensorDataset(
                images, torch.stack([(masks == 1).any(2).any(1), (masks == 2).any(2).any(1)], 1).float()
            )
        return TensorDataset(images, images.flip(1))

    return {"train": split(train), "val": split(8), "test": split(8)}


DATA: dict[str, dict[str, Any]] = {
    "mask": {"classes": ["ground", "red", "green"], "ignore": 9},
    "depth": {"scale": 1.0},
    "vector": {},
    "image": {},
}
TASKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "segmentation": ("mask", {"ignore_index": 9}, "support.task_support:TinyMap"),
    "depth": ("depth", {}, "support.task_support:TinyMap"),
    "image-to-image": ("image", {}, "support.task_support:TinyMap"),
    "colourisation": ("image", {}, "support.task_support:TinyMap"),
    "denoising": ("image", {"sigma": [5.0, 50.0]}, "support.task_support:TinyMap"),
    "super-resolution": ("image", {}, "support.task_support:TinyMap"),
    "multi-label": ("mask", {"ignore_index": 9}, "support:TinyNet"),
    "regression": ("depth", {}, "support:TinyNet"),
}
"""Each task of the engine: the kind of data it is tried on, its options, a model."""


def task_recipe(name: str, *plugins: dict[str, Any], **changes: Any) -> Recipe:
    """A short run of the task ``name``, with a random teacher."""
    kind, args, model = TASKS[name]
    given = {"kind": kind, "target": kind, **DATA[kind]}
    return recipe(
        *plugins,
        **{
            "data": {"name": "support.task_support:dense_data", "args": given, "batch_size": 8},
            "task": {"name": name, "args": args},
            "student": {"model": model, "args": {"width": 4}},
            "teacher": {"model": model, "args": {"width": 6}, "random": True},
            **changes,
        },
    )
