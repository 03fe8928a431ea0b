"""Dense tasks with unlabelled photographs: the losses are of the images with masks, depths or pictures, in every term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse import Recipe, prepare
from stillhouse.data import PartlyLabelled

LINK = {"student": "encoder.stage3", "teacher": "encoder.stage3", "pool": "none"}
TARGETS: dict[str, dict[str, Any]] = {
    "segmentation": {"target": "mask", "classes": ["a", "b"]},
    "depth": {"target": "depth"},
    "image-to-image": {"target": "image"},
}


def save(file: Path, pixels: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def make_target(task: str, rng: np.random.Generator) -> Any:
    if task == "segmentation":
        return rng.integers(0, 2, (24, 32), dtype=np.uint8)
    if task == "depth":
        return rng.integers(1, 4000, (24, 32), dtype=np.uint16)
    return rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("task", TARGETS)
def test_the_loss_is_of_the_images_with_targets(task: str, tmp_path: Path):
    for k in range(12):
        rng = np.random.default_rng(k)
        save(tmp_path / "images" / f"{k}.png", rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        save(tmp_path / "targets" / f"{k}.png", make_target(task, rng))
        save(tmp_path / "photos" / f"{k}.png", rng.integers(0, 255, (30, 50, 3), dtype=np.uint8))
    data = {
        "name": "pairs:.",
        "args": {"images": "images/*.png", "labels": "targets/*.png", **TARGETS[task]},
        "unlabelled": "photos:photos",
        "unlabelled_args": {"images": "*.png"},
        "size": [24, 32],
        "batch_size": 4,
    }
    tables = {
        "run": {"name": "dense", "epochs": 1, "device": "cpu", "base": str(tmp_path)},
        "data": data,
        "task": {"name": task},
        "student": {"model": "stillhouse.models:unet", "args": {"width": 4, "norm": "group"}},
        "teacher": {"model": "stillhouse.models:unet", "args": {"width": 6}, "random": True},
        "plugins": [{"use": "features", "links": [LINK]}, {"use": "projector"}],
    }
    training = prepare(Recipe.from_dict(tables), write=False)
    batch, run = training.first_batch(), training.run
    assert isinstance(batch.target, PartlyLabelled)
    assert batch.target.labelled == [True] * 4 + [False] * 4
    output = run.student(batch.input)
    own = run.task.loss(output[:4], batch.target.values[:4])
    both = run.task.loss(output, batch.target)
    torch.testing.assert_close(both, own)
    found, expected = (torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in (both, own))
    assert not found[4:].any()
    torch.testing.assert_close(found, expected)
    assert training.fit().metrics["val"]
