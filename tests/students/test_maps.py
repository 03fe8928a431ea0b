"""``predict --maps``: a number for each of an image's own pixels; and boxes in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import recipe
from support.detectors import detection_tables
from support.task_support import task_recipe

from stillhouse import Recipe, StillhouseError, load_student, train
from stillhouse.cli import main
from stillhouse.students.prediction import predict
from stillhouse.tasks.detection import Detection

pytestmark = pytest.mark.usefixtures("in_tests")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """20 high and 30 wide; the student sees it in 12x12."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def train_on(task: str, out: Path, **data: Any) -> Path:
    tables = task_recipe(task, teacher=None, run__epochs=1).to_dict()
    tables["data"] |= {"size": [12, 12], **data}
    train(Recipe.from_dict(tables), out=out)
    return out


def test_class_indices_in_the_images_own_size(photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = train_on("segmentation", tmp_path / "run", normalize="none")
    assert main(["predict", str(run), str(photograph), "--no-pictures", "--maps", str(tmp_path / "maps")]) == 0
    shown = capsys.readouterr().out
    file = Image.open(tmp_path / "maps" / "photograph.png")
    assert (file.mode, file.size) == ("L", (30, 20))
    assert file.info["Description"] == "the class of each pixel: 0 = ground, 1 = red, 2 = green"
    assert f"maps: {file.info['Description']}" in shown
    assert "20x30" in shown
    assert "12x12" in shown
    x = torch.from_numpy(np.array(Image.open(photograph))).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, (12, 12), mode="bilinear", antialias=True).round() / 255
    with torch.no_grad():
        logits = F.interpolate(load_student(run)(x), (20, 30), mode="bilinear", align_corners=False)
    assert (np.asarray(file) == logits[0].argmax(0).numpy()).mean() > 0.99  # a level of 255 may be rounded otherwise


def test_depths_are_millimetres_in_16_bits(photograph: Path, tmp_path: Path):
    run = train_on("depth", tmp_path / "run")
    (found,) = predict(run, [photograph], out=None, maps=tmp_path / "maps")
    file = Image.open(str(found.map))
    assert (file.mode, file.size, found.own_size) == ("I;16", (30, 20), (20, 30))
    median = float(np.median(np.asarray(file))) / 1000
    assert median == pytest.approx(found.prediction["metres"]["median"], rel=0.1)
    assert found.map_about == file.info["Description"]


def test_a_made_picture_keeps_its_size(photograph: Path, tmp_path: Path):
    run = train_on("denoising", tmp_path / "run")
    (found,) = predict(run, [photograph], out=None, maps=tmp_path / "maps")
    file = Image.open(str(found.map))
    assert (file.mode, file.size) == ("RGB", (12, 12))
    (own,) = predict(run, [photograph], out=None, maps=tmp_path / "own", own_size=True)
    assert Image.open(str(own.map)).size == (30, 20)


def test_maps_are_refused_before_anything_is_written(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = train_on("segmentation", tmp_path / "run")
    both = tmp_path / "both"
    assert main(["predict", str(run), str(photograph), "--out", str(both), "--maps", f"{both}/../both"]) == 2
    assert "--maps: must be another folder than that of the pictures" in capsys.readouterr().err
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "photograph.png").write_text("precious")
    with pytest.raises(StillhouseError, match=r"photograph.png: the picture exists already .*--maps names another"):
        predict(run, [photograph], out=both, maps=tmp_path / "maps")
    assert not both.exists()
    predict(run, [photograph], out=None, maps=tmp_path / "maps", force=True)
    assert Image.open(tmp_path / "maps" / "photograph.png").size == (30, 20)


def test_a_task_without_maps_says_so(photograph: Path, tmp_path: Path):
    data = {"name": "sklearn:digits", "limit": 64}
    train(recipe(data=data, student={"model": "mlp"}, run__epochs=1), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match=r"--maps: the task 'classification' gives no map of an image"):
        predict(tmp_path / "run", [photograph], out=None, maps=tmp_path / "maps")


def test_boxes_are_in_the_images_own_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tables = detection_tables("support.detectors:small_ssd")
    tables["data"]["size"] = [64, 64]
    train(Recipe.from_dict(tables), out=tmp_path / "run")
    box = {"boxes": torch.tensor([[8.0, 16.0, 32.0, 64.0]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    monkeypatch.setattr(Detection, "call", lambda *_: [box])
    Image.new("RGB", (128, 32)).save(tmp_path / "wide.png")
    words = ["predict", str(tmp_path / "run"), str(tmp_path / "wide.png"), "--out", str(tmp_path / "out")]
    assert main([*words, "--json", "--csv", str(tmp_path / "found.csv")]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said["prediction"]["objects"][0]["box"] == [16.0, 8.0, 64.0, 32.0]
    assert (said["size"], said["own_size"]) == ([64, 64], [32, 128])
    (row,) = csv.DictReader((tmp_path / "found.csv").read_text().splitlines())
    assert [row[key] for key in ("height", "width", "x1", "y2")] == ["32", "128", "16.0", "32.0"]
