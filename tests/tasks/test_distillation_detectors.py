"""Distillation of detectors by their backbone, beside labels and without, and detectors that begin with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import recipe
from support.detectors import detection_tables, small_faster_rcnn
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.tasks.distillation import Distillation
from stillhouse.training.explanation import describe, render_text

OWN: dict[str, Any] = {"width": 8, "stages": 3, "channels": 32}
TEACHER = {"model": "stillhouse.models:convnet", "args": {"width": 8}, "random": True}
LINKS = [
    {"use": "features", "links": [{"student": "backbone.encoder.stage3", "teacher": "stage3", "pool": "mean"}]},
    {"use": "projector"},
]


def distilled(**changes: Any) -> dict[str, Any]:
    made = detection_tables("stillhouse.models:detector", args=OWN, n=8, teacher=TEACHER, **changes)
    return {**made, "task": {"name": "distillation"}, "plugins": LINKS}


def test_a_detector_learns_in_its_backbone_and_another_one_begins_with_it():
    training = prepare(Recipe.from_dict(distilled()), write=False)
    before = {k: v.clone() for k, v in training.run.student.state_dict().items()}
    result = training.fit()
    after = result.student.state_dict()
    assert set(result.metrics["val"]) == {"rank"}
    assert not torch.equal(before["backbone.encoder.stage3.0.0.weight"], after["backbone.encoder.stage3.0.0.weight"])
    assert all(torch.equal(before[key], after[key]) for key in after if key.startswith("head"))
    start = {"model": "stillhouse.models:detector", "args": OWN, "recipe": distilled(), "weights": "last"}
    made = {**detection_tables("stillhouse.models:detector"), "student": {**start, "replace_head": True}}
    tuned = prepare(Recipe.from_dict(made), write=False)
    own = tuned.run.student.state_dict()
    assert all(torch.equal(own[key], after[key]) for key in own if key.startswith("backbone"))
    assert set(tuned.fit().metrics["val"]) >= {"map"}


def test_the_output_is_the_last_map_of_the_backbone_in_both_modes():
    model, images = small_faster_rcnn(3), torch.rand(2, 3, 64, 64)
    expected = model.backbone(model.transform(list(images))[0].tensors)
    for mode in (True, False):
        torch.testing.assert_close(Distillation().call(model.train(mode), images, None), expected)


class Own(nn.Module):
    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return images


def test_a_detector_without_a_backbone_is_refused():
    with pytest.raises(StillhouseError, match="Own needs boxes to be trained, and has no `transform` and `backbone`"):
        Distillation().call(Own(), torch.rand(2, 3, 8, 8), None)


def test_what_rank_cannot_tell_is_said_and_of_classes_nothing(capsys: pytest.CaptureFixture[str]):
    training = prepare(Recipe.from_dict(distilled()), write=False, progress=True)
    assert "score    val/rank, the number of directions" in render_text(describe(training))
    training.fit()
    assert "boxes: the score is val/rank, the number of directions" in " ".join(capsys.readouterr().err.split())
    five = [{**LINKS[0], "links": [{"student": "body", "teacher": "body", "pool": "mean"}]}, LINKS[1]]
    training = prepare(recipe(*five, task={"name": "distillation"}), write=False)
    assert "score  " not in render_text(describe(training))
    training.close()


def test_unlabelled_photographs_beside_a_labelled_folder_are_measured_by_its_classes(tmp_path: Path):
    for k in range(40):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        for file in (tmp_path / "labelled" / "ab"[k % 2] / f"{k}.png", tmp_path / "photos" / f"{k}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    data = {"name": "folder:labelled", "batch_size": 8, "val_fraction": 0.3}
    more = {"unlabelled": "photos:photos", "unlabelled_args": {"images": "*.png"}}
    student = {"model": "stillhouse.models:convnet", "args": {"width": 8}}
    links = [{**LINKS[0], "links": [{"student": "stage3", "teacher": "stage3", "pool": "mean"}]}, LINKS[1]]
    run = {"name": "d", "epochs": 1, "device": "cpu", "base": str(tmp_path)}
    tables = {"run": run, "task": {"name": "distillation", "args": {"k": 3}}, "student": student, "teacher": TEACHER}
    training = prepare(Recipe.from_dict({**tables, "data": data | more, "plugins": links}), write=False)
    assert len(training.first_batch().id) == 16
    assert set(training.fit().metrics["val"]) == {"knn", "probe", "rank"}
    images = TensorDataset(torch.rand(40, 3, 16, 16), torch.arange(40) % 2)
    handed = Recipe.from_dict(
        {**tables, "data": {"name": "given", "val_fraction": 0.3, "batch_size": 8}, "plugins": links}
    )
    assert set(train(handed, data=images, write=False).metrics["val"]) == {"knn", "probe", "rank"}


def test_the_pictures_of_a_run_without_classes_are_written(tmp_path: Path):
    for k in range(16):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    made = distilled(run={"base": str(tmp_path)})
    data = {"name": "photos:photos", "args": {"images": "*.png"}, "batch_size": 4, "size": 64}
    made["data"] = {**data, "normalize": "none"}
    train(Recipe.from_dict(made), out=tmp_path / "run")  # without a warning
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
