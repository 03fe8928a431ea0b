"""Whole runs of detection: features of teachers, measured and exported with the task's classes, overfitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.shapes import shapes
from torch import Tensor, nn

from stillhouse import Recipe, evaluate, export, train
from stillhouse.cli import main
from stillhouse.data import DataInfo
from stillhouse.tasks.detection import Detection, find_boxes

INFO = DataInfo(3, ("void", "square", "bar"), (3, 32, 32), {"train": 4}, "", target="mask")
TASK = Detection(classes={"square": 1, "bar": 2}, min_area=4)


def recipe(*plugins: dict[str, Any], times: int = 1, epochs: int = 1, **changes: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "run": {
                "name": "boxes",
                "epochs": epochs,
                "device": "cpu",
                "threads": 1,
                "base": str(Path(__file__).parent),
            },
            "data": {
                "name": "support.shapes:shapes",
                "args": {"times": times, "target": "mask", "classes": ["void", "square", "bar"]},
                "batch_size": 4,
                "normalize": "none",
            },
            "task": {"name": "detection", "args": {"classes": {"square": 1, "bar": 2}, "min_area": 4}},
            "student": {"model": "stillhouse.models:detector", "args": {"width": 8, "stages": 3, "channels": 32}},
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup": 0.1, "decay": "cosine"},
            "plugins": list(plugins),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("teacher", "layer"),
    [
        ({"model": "stillhouse.models:convnet", "args": {"num_classes": 5, "width": 12}}, "stage3"),
        (
            {"model": "stillhouse.models:detector", "args": {"width": 12, "stages": 3, "channels": 32}},
            "backbone.encoder.stage3",
        ),
    ],
)
def test_features_of_two_kinds_of_teachers_reach_a_detector(teacher: dict[str, Any], layer: str) -> None:
    links = [{"student": "backbone.encoder.stage3", "teacher": layer, "pool": "none"}]
    method = ({"use": "features", "links": links}, {"use": "projector"})
    result = train(recipe(*method, teacher={**teacher, "random": True}), write=False)
    assert set(result.metrics["val"]) == {"map", "map50", "recall"}
    assert 0.0 <= result.metrics["val"]["map"] <= 1.0


class Bright(nn.Module):
    """Finds the bright square, always, and no bar."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if self.training:
            return {"nothing": self.weight.square()}
        found = [find_boxes((image[0] > 0.8).long(), (1,), 16) for image in images]
        return [{**boxes, "scores": torch.ones(len(boxes["labels"]))} for boxes in found]


def test_a_run_is_measured_and_exported_with_the_tasks_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(student={"model": "test_detection_runs:Bright"}), out=tmp_path / "run")
    found = evaluate(tmp_path / "run")
    assert found.class_names == ("square", "bar")
    assert found.per_class == {"val": {"ap": pytest.approx([1.0, 0.0])}}
    assert found.metrics["val"] == pytest.approx({"map": 0.5, "map50": 0.5, "recall": 0.5})
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row[:1] in (["class"], ["square"], ["bar"])] == [
        ["class", "ap"],
        ["square", "1.0000"],
        ["bar", "0.0000"],
    ]
    about = export(tmp_path / "run", tmp_path / "run.safetensors").metadata
    assert (about["classes"], about["class_names"], about["outputs"]) == (2, ["square", "bar"], 3)


@pytest.mark.slow
def test_it_overfits_generated_shapes() -> None:
    result = train(recipe(times=30, epochs=4), write=False)
    assert result.metrics["val"]["map50"] > 0.95
    assert result.metrics["val"]["map"] > 0.7
    image = shapes()["val"][1][0]
    with torch.no_grad():
        (found,) = result.student([image])
    objects = TASK.prediction(INFO, found)["objects"]
    assert [o["class"] for o in objects if o["score"] > 0.5] in (["square", "bar"], ["bar", "square"])
