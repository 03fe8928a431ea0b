"""``stillhouse predict`` on folders and patterns, and its table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse import Recipe, StillhouseError, train
from stillhouse.cli import main
from stillhouse.cli.predict import list_images, to_csv
from stillhouse.students.prediction import Predicted


def save(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file)
    return str(file)


def test_folders_and_patterns_mean_their_images(tmp_path: Path):
    names = [save(tmp_path / name) for name in ("a/1.png", "a/b/2.JPG", "a/10.png", "c/3.png")]
    (tmp_path / "a" / "notes.txt").touch()
    assert list_images([str(tmp_path / "a")]) == sorted(names[:3])
    assert list_images([names[3], f"{tmp_path}/c/*.png", f"{tmp_path}/**/[12].*"]) == [names[3], *sorted(names[:2])]
    assert list_images(["nowhere.png"]) == ["nowhere.png"], "what is not there is said with the others"
    odd = save(tmp_path / "odd[1].png")
    assert list_images([odd]) == [odd]
    (tmp_path / "empty").mkdir()
    for named, said in (
        (f"{tmp_path}/empty", "this folder holds no images"),
        (f"{tmp_path}/*.gif", "no file matches this pattern"),
    ):
        with pytest.raises(StillhouseError, match=said):
            list_images([named])


def test_a_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stillhouse.cli.predict._MOST", 3)
    for k in range(4):
        save(tmp_path / "disk" / f"{k}" / "a.png")
    with pytest.raises(StillhouseError, match="this folder holds more than 3 files"):
        list_images([str(tmp_path / "disk")])
    with pytest.raises(StillhouseError, match="this pattern matches more than 3 files"):
        list_images([f"{tmp_path}/**/*.png"])


def rows_of(*predictions: dict[str, Any]) -> list[dict[str, str]]:
    found = [
        Predicted(f"{k}.png", (2, 3), prediction, None, own_size=(4, 6)) for k, prediction in enumerate(predictions)
    ]
    return list(csv.DictReader(to_csv(found).splitlines()))


def test_a_row_for_each_image_and_a_column_for_each_number():
    top = [{"class": "a, b", "probability": 0.75}, {"class": "c", "probability": 0.25}]
    assert rows_of({"class": "a, b", "top": top}) == [
        {
            "image": "0.png",
            "height": "4",
            "width": "6",
            "class": "a, b",
            "probability a, b": "0.75",
            "probability c": "0.25",
        }
    ]
    assert rows_of({"metres": {"min": 1.5, "max": 2.0}})[0]["metres max"] == "2.0"
    assert rows_of({"labels": ["x", "y"], "probabilities": []})[0]["labels"] == "x;y"


def test_a_row_for_each_box_and_one_for_an_image_without():
    boxes = [
        {"class": "dog", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]},
        {"class": "cat", "score": 0.5, "box": [0.0, 0.0, 1.0, 1.0]},
    ]
    rows = rows_of({"objects": boxes}, {"objects": []})
    assert [(row["image"], row["class"], row["x2"]) for row in rows] == [
        ("0.png", "dog", "3.0"),
        ("0.png", "cat", "1.0"),
        ("1.png", "", ""),
    ]


def test_the_command_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "y.png"):
        save(tmp_path / "new" / name)
    tables = {"data": {"name": "sklearn:digits", "limit": 64}, "student": {"model": "mlp"}, "run": {"epochs": 1}}
    train(Recipe.from_dict(tables), out="run")
    arguments = ["predict", "run", "new", "--no-pictures", "--csv", "found.csv"]
    assert main(arguments) == 0
    rows = list(csv.DictReader(Path("found.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["new/x.png", "new/y.png"]
    assert {row["class"] for row in rows} <= set("0123456789")
    assert main(arguments) == 2
    assert "found.csv: is there already (--force writes over it)" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    odd = tmp_path / "new" / b"z\xff.png".decode("utf-8", "surrogateescape")
    save(odd)
    assert main([*arguments, "--force"]) == 0
    rows = list(csv.DictReader(Path("found.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["new/x.png", "new/y.png", "new/z\\udcff.png"]
    assert main(["predict", "run", "new", "--out", "pictures", "--csv", "nowhere/found.csv"]) == 2
    assert "nowhere/found.csv: cannot be written: there is no such folder" in capsys.readouterr().err
    assert not Path("pictures").exists()
