"""``stillhouse init`` of what is packed, tar shards and rows on disk, and of folders that are no classes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse import load_recipe
from stillhouse.cli import main


@pytest.fixture(autouse=True)
def no_pretrained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Recipes are those of an installation without the package of a pretrained teacher, written to an own folder."""
    monkeypatch.setattr("stillhouse.models.lite0.has_lite0", lambda: False)
    monkeypatch.chdir(tmp_path)


def make_picture(k: int, ending: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(file, ending)
    return file.getvalue()


def make_mask(k: int) -> bytes:
    file = io.BytesIO()
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[:, : k + 1] = 1
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def write_shards(root: Path, make: Callable[[int], dict[str, bytes]], names: tuple[str, ...]) -> None:
    root.mkdir()
    for part, name in enumerate(names):
        with tarfile.open(root / name, "w") as tar:
            for k in range(16 * part, 16 * part + 16):
                for ending, content in make(k).items():
                    info = tarfile.TarInfo(f"{k:04d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


BOX = {"boxes": [[2.0, 3.0, 20.0, 18.0]], "labels": [1]}
SHARDS: dict[str, tuple[Callable[[int], dict[str, bytes]], str, dict[str, Any]]] = {
    "numbers": (lambda k: {"jpg": make_picture(k, "JPEG"), "cls": b"%d" % (k % 2)}, "classification", {}),
    "names": (lambda k: {"png": make_picture(k), "txt": (b"oak", b"birch")[k % 2]}, "classification", {"label": "txt"}),
    "entries": (
        lambda k: {"png": make_picture(k), "json": as_json({"id": k, "species": "ab"[k % 2]})},
        "classification",
        {"label": "json:species"},
    ),
    "masks": (
        lambda k: {"png": make_picture(k), "seg.png": make_mask(k)},
        "segmentation",
        {"image": ["png"], "label": "seg.png", "target": "mask", "classes": ["value 0", "value 1"]},
    ),
    "boxes": (
        lambda k: {"png": make_picture(k), "json": as_json(BOX)},
        "detection",
        {"target": "boxes", "label": "json", "classes": 2},
    ),
    "captions": (
        lambda k: {"png": make_picture(k), "txt": b"goldfish number %d" % k},
        "self-supervised",
        {"target": "none"},
    ),
}


@pytest.mark.parametrize("form", SHARDS)
def test_tar_shards_become_a_recipe_that_can_be_trained(form: str, capsys: pytest.CaptureFixture[str]):
    make, task, args = SHARDS[form]
    write_shards(Path("data"), make, ("train-0000.tar", "train-0001.tar", "val-0000.tar"))
    assert main(["init", "data"]) == 0
    assert "found   3 tar shards, divided into splits, 32 samples in the first of each\n" in capsys.readouterr().out
    recipe = load_recipe("recipe.toml")
    assert (recipe.data.name, recipe.task.name, recipe.data.args) == ("shards:data", task, args)
    assert main(["explain", "recipe.toml"]) == 0, capsys.readouterr().err


def test_one_shard_is_named_by_its_file():
    make = SHARDS["numbers"][0]
    write_shards(Path("data"), make, ("some.tar",))
    assert main(["init", "data/some.tar"]) == 0
    assert load_recipe("recipe.toml").data.name == "shards:data/some.tar"
    assert main(["explain", "recipe.toml"]) == 0


def test_shards_without_images_are_refused(capsys: pytest.CaptureFixture[str]):
    write_shards(Path("data"), lambda k: {"wav": b"-", "cls": b"1"}, ("a.tar",))
    assert main(["init", "data"]) == 2
    assert "error: data: no sample of its shards has an image (the first has wav, cls)" in capsys.readouterr().err


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("datasets")


def save_rows(library: Any, columns: dict[str, tuple[Any, Any]], split: bool = False) -> None:
    rows = library.Dataset.from_dict(
        {name: [make(k) for k in range(16)] for name, (_, make) in columns.items()},
        features=library.Features({name: feature for name, (feature, _) in columns.items()}),
    )
    whole = library.DatasetDict({"train": rows, "validation": rows.select(range(8))}) if split else rows
    whole.save_to_disk("data")


def open_picture(k: int) -> Image.Image:
    return Image.open(io.BytesIO(make_picture(k)))


def open_mask(k: int) -> Image.Image:
    return Image.open(io.BytesIO(make_mask(k)))


@pytest.mark.parametrize("split", [False, True])
def test_rows_of_classes_on_disk_become_a_recipe(library: Any, split: bool, capsys: pytest.CaptureFixture[str]):
    label = (library.ClassLabel(names=["oak", "birch"]), lambda k: k % 2)
    save_rows(library, {"photo": (library.Image(), open_picture), "species": label}, split)
    assert main(["init", "data"]) == 0
    said = "24 rows in 2 splits" if split else "16 rows"
    assert f"found   a Hugging Face data set of {said}: images in 'photo', 'species'\n" in capsys.readouterr().out
    recipe = load_recipe("recipe.toml")
    assert (recipe.data.name, recipe.task.name, recipe.data.args) == ("hf:data", "classification", {})
    assert main(["explain", "recipe.toml"]) == 0, capsys.readouterr().err


def test_rows_of_masks_numbers_and_images_alone_are_told_apart(library: Any, capsys: pytest.CaptureFixture[str]):
    image = (library.Image(), open_picture)
    for task, column in (
        ("segmentation", {"mask": (library.Image(), open_mask)}),
        ("regression", {"label": (library.Value("float32"), float)}),
        ("classification", {"label": (library.Value("int64"), lambda k: k % 2)}),
        ("self-supervised", {"caption": (library.Value("string"), str)}),
    ):
        save_rows(library, {"image": image, **column})
        assert main(["init", "data", "--force"]) == 0
        assert load_recipe("recipe.toml").task.name == task
        assert main(["explain", "recipe.toml"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    save_rows(library, {"image": image, "label": (library.Value("string"), lambda k: "ab"[k % 2])})
    assert main(["init", "data", "--force"]) == 2
    assert "the column 'label' is of string, and classes are numbers" in capsys.readouterr().err


def write_images(*folders: str) -> None:
    for folder in folders:
        Path(folder).mkdir(parents=True)
        for k in range(12):
            (Path(folder) / f"{k}.png").write_bytes(make_picture(k))


@pytest.mark.parametrize(
    ("folders", "empty", "said", "other"),
    [
        (("data/daisy",), (), "in one folder, 'daisy': one class cannot be told from others (", "data/daisy"),
        (("data/daisy",), ("data/rose",), "told from others; no image is in 'rose' (", "data/daisy"),
        (("data/train/daisy", "data/val/daisy"), (), "24 images are in one folder, 'daisy'", "data/train/daisy"),
    ],
)
def test_one_class_is_refused_and_its_images_can_be_trained_without_labels(
    folders: tuple[str, ...], empty: tuple[str, ...], said: str, other: str, capsys: pytest.CaptureFixture[str]
):
    write_images(*folders)
    for folder in empty:
        Path(folder).mkdir()
    assert main(["init", "data"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert f"without labels: stillhouse init {other})" in error
    assert main(["init", other]) == 0
    assert load_recipe("recipe.toml").task.name == "self-supervised"
    assert main(["explain", "recipe.toml"]) == 0, capsys.readouterr().err


def test_the_one_folder_that_an_archive_has_is_looked_into():
    write_images("data/flower_photos/daisy", "data/flower_photos/rose")
    assert main(["init", "data"]) == 0
    assert load_recipe("recipe.toml").data.name == "folder:data/flower_photos"
