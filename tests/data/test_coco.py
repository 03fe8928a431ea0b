"""COCO's annotations: boxes, and masks from polygons and runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as PolygonPath
from PIL import Image

from stillhouse import StillhouseError
from stillhouse.data.catalogue import open_source
from stillhouse.data.polygons import draw_mask
from stillhouse.data.sources import SourceRequest


def save(folder: Path, images: int = 8, change: Any = None, name: str = "a.json") -> str:
    """Images of 10 x 12 pixels with a square, a triangle in front of it, and a crowd; returns the source's name."""
    (folder / "img").mkdir(exist_ok=True)
    told: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    for k in range(images):
        Image.fromarray(np.full((10, 12), 20 * k % 256, dtype=np.uint8)).save(folder / "img" / f"{k}.png")
        told["images"].append({"id": 100 + k, "file_name": f"{k}.png", "height": 10, "width": 12})
        crowd = np.zeros((10, 12), dtype=bool)
        crowd[8:, :3] = True
        told["annotations"] += [
            {"id": 3 * k, "image_id": 100 + k, "category_id": 3, "bbox": [0, 0, 2, 2], "area": 4, "segmentation": [[0, 0, 2, 0, 1, 2]], "iscrowd": 0},
            {"id": 3 * k + 1, "image_id": 100 + k, "category_id": 7, "bbox": [0, 0, 6, 5], "area": 30, "segmentation": [[0, 0, 5, 0, 5, 4, 0, 4]], "iscrowd": 0},
            {"id": 3 * k + 2, "image_id": 100 + k, "category_id": 7, "bbox": [0, 8, 3, 2], "area": 6, "segmentation": {"size": [10, 12], "counts": runs(crowd)}, "iscrowd": 1},
        ]  # fmt: skip
    told = told if change is None else change(copy.deepcopy(told))
    (folder / name).write_text(json.dumps(told))
    return f"coco:{folder / name}"


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, the first of them outside."""
    flat = mask.T.reshape(-1)
    counts, inside, length = [], False, 0
    for pixel in flat.tolist():
        if pixel != inside:
            counts.append(length)
            inside, length = pixel, 0
        length += 1
    return [*counts, length]


def compressed(counts: list[int]) -> str:
    """COCO's text of the lengths, by its description: six bits a character, the highest says whether more follow."""
    text = ""
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        while True:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | 0x20 if more else bits) + 48)
            if not more:
                break
    return text


def opened(name: str, base: Path, **args: Any) -> Any:
    return open_source(name, SourceRequest(args={"images": "img", **args}, val_fraction=0.25, base=base))


def test_boxes_by_category(tmp_path: Path):
    source = opened(save(tmp_path), tmp_path)
    assert source.class_names == ("cat", "dog")
    assert {split: len(ids) for split, ids in source.splits.items()} == {"train": 4, "val": 2, "test": 2}
    image, target = source.pair(2)
    assert int(image[0, 0, 0]) == 40
    assert target["boxes"].tolist() == [[0, 0, 2, 2], [0, 0, 6, 5]]
    assert target["labels"].tolist() == [0, 1]


def test_masks_with_the_small_in_front_and_crowds_without_label(tmp_path: Path):
    source = opened(save(tmp_path), tmp_path, target="mask")
    assert source.class_names == ("background", "cat", "dog")
    mask = source.pair(0)[1].numpy()
    assert mask[0, 1] == 1
    assert mask[3, 3] == 2
    assert mask[6, 6] == 0
    assert (mask[8:, :3] == source.spec.ignored).all()


def test_splits_by_the_files_names(tmp_path: Path):
    for split in ("train", "val"):
        save(tmp_path, name=f"instances_{split}.json")
    source = opened(f"coco:{tmp_path}/instances_{{split}}.json", tmp_path)
    assert {split: len(ids) for split, ids in source.splits.items()} == {"train": 8, "val": 8}


def test_each_split_may_be_a_folder(tmp_path: Path):
    for folder in ("train", "valid"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder, name="_annotations.json")
    name = f"coco:{tmp_path}/{{split}}/_annotations.json"
    source = open_source(name, SourceRequest(args={"images": "{split}/img"}, val_fraction=0.25, base=tmp_path))
    assert {split: len(ids) for split, ids in source.splits.items()} == {"train": 8, "val": 8}


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_the_pixels_they_were_made_of(seed: int):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
    size = list(mask.shape)
    assert (draw_mask({"size": size, "counts": runs(mask)}, *size) == mask).all()
    assert (draw_mask({"size": size, "counts": compressed(runs(mask))}, *size) == mask).all()


def test_a_polygon_has_the_area_of_the_shoelace_formula():
    corners = np.array([[10, 10], [80, 15], [90, 70], [40, 95], [15, 60]], dtype=float)
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    drawn = draw_mask([corners.reshape(-1).tolist()], 100, 100).sum()
    assert drawn == pytest.approx(area, rel=0.004)
    square = draw_mask([[2, 2, 10, 2, 10, 10, 2, 10]], 12, 14)
    assert square.sum() == 64
    assert square[2:10, 2:10].all()


@pytest.mark.parametrize("seed", range(20))
def test_a_polygon_has_the_pixels_whose_centres_lie_in_it(seed: int):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 30, (rng.integers(3, 9), 2))
    inside = PolygonPath(corners).contains_points if len(corners) == 3 else None
    drawn = draw_mask([corners.reshape(-1).tolist()], 20, 25)
    for row in range(20):
        for column in range(25):
            x, y = column + 0.5, row + 0.5
            crossings = 0
            for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if (ay <= y) != (by <= y) and x >= ax + (y - ay) * (bx - ax) / (by - ay):
                    crossings += 1
            assert drawn[row, column] == (crossings % 2 == 1)
            if inside is not None:
                assert drawn[row, column] == inside([(x, y)])[0]


def test_each_split_has_its_own_ids_and_the_classes_are_one(tmp_path: Path):
    def renumbered(told: dict[str, Any]) -> dict[str, Any]:
        for category in told["categories"]:
            category["id"] -= 3  # cat 0, dog 4
        for thing in told["annotations"]:
            thing["category_id"] -= 3
        return told

    save(tmp_path, name="a_train.json")
    save(tmp_path, change=renumbered, name="a_val.json")
    for target in ("boxes", "mask"):
        source = opened(f"coco:{tmp_path}/a_{{split}}.json", tmp_path, target=target)
        (_, one), (_, other) = (source.pair(int(source.splits[split][0])) for split in ("train", "val"))
        if target == "boxes":
            assert one["labels"].tolist() == other["labels"].tolist()
        else:
            assert (one == other).all()


def first_of(told: dict[str, Any], key: str, **changes: Any) -> dict[str, Any]:
    told[key][0].update(changes)
    return told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: [], "must have the lists images, annotations and categories"),
        (lambda told: {**told, "categories": 3}, "must have the lists images, annotations and categories"),
        (lambda told: first_of(told, "annotations", category_id=9), "annotation 0: no category 9"),
        (lambda told: first_of(told, "images", id=101), "the id 101 is that of more than one image"),
        (lambda told: first_of(told, "categories", id=3), "the id 3 is that of more than one category"),
        (lambda told: first_of(told, "annotations", image_id=9), "annotation 0: no image 9"),
        (
            lambda told: first_of(told, "annotations", bbox=[1, 2]),
            "annotation 0: bbox must be x, y, width, height, got [1, 2]",
        ),
        (lambda told: first_of(told, "images", file_name="x.png"), "1 of 8 images are not in"),
    ],
)
def test_what_is_wrong_with_the_annotations_is_said(change: Any, said: str, tmp_path: Path):
    with pytest.raises(StillhouseError) as caught:
        opened(save(tmp_path, change=change), tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "changes", "said"),
    [
        ("images", {"height": 9}, "the image is 10 x 12 pixels, and its annotations are for 9 x 12"),
        ("annotations", {"segmentation": [[1, 2]]}, "a polygon must be x1, y1, x2, y2, x3, y3, ..., got [1, 2]"),
        ("annotations", {"segmentation": None}, "a segmentation must be polygons or runs, got None"),
        ("annotations", {"segmentation": [["a"] * 6]}, "its segmentation cannot be drawn: could not convert"),
        (
            "annotations",
            {"segmentation": {"size": [10, 12], "counts": [-1, 121]}},
            "runs must be of the image's 10 x 12",
        ),
        ("annotations", {"segmentation": 3}, "a segmentation must be polygons or runs, got 3"),
        (
            "annotations",
            {"segmentation": {"size": [1, 1], "counts": [1]}},
            "runs must be of the image's 10 x 12 pixels",
        ),
    ],
)
def test_what_is_wrong_with_an_image_is_said(key: str, changes: dict[str, Any], said: str, tmp_path: Path):
    source = opened(save(tmp_path, change=lambda told: first_of(told, key, **changes)), tmp_path, target="mask")
    with pytest.raises(StillhouseError, match=r"img/0\.png") as caught:
        source.pair(0)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_and_splits_of_other_categories(tmp_path: Path):
    save(tmp_path, name="train.json")
    with pytest.raises(StillhouseError, match=r"file not found: .*trian\.json \(did you mean 'train\.json'"):
        opened(f"coco:{tmp_path}/trian.json", tmp_path)
    save(tmp_path, name="val.json", change=lambda told: first_of(told, "categories", name="wolf"))
    with pytest.raises(StillhouseError, match="its categories differ from those of"):
        opened(f"coco:{tmp_path}/{{split}}.json", tmp_path)
