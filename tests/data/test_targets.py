"""Targets of others' data sets: guessed or said, of every kind; and how they travel."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.dense_files import load, scene
from support.loading import Given
from torch.utils.data import TensorDataset

from stillhouse.data.targets import guess_kind
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.nested import map_tensors


def items(target: Callable[[int], Any], n: int = 20, size: tuple[int, int] = (4, 6)) -> list[Any]:
    return [(torch.full((1, *size), k, dtype=torch.uint8), target(k)) for k in range(n)]


def fault_of(name: str, **options: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return str(caught.value.faults[0])


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (3, "class"),
        (np.int64(3), "class"),
        (torch.tensor(3), "class"),
        (torch.tensor([3]), "class"),
        (None, "none"),
        ({"boxes": [], "labels": []}, "boxes"),
        (Image.new("P", (3, 2)), "mask"),
        (Image.new("L", (3, 2)), "mask"),
        (Image.new("I;16", (3, 2)), "depth"),
        (Image.new("RGB", (3, 2)), "image"),
        (torch.zeros(4, 6, dtype=torch.int64), "mask"),
        (torch.zeros(1, 4, 6, dtype=torch.uint8), "mask"),
        (np.zeros((4, 6), dtype=bool), "mask"),
        (torch.zeros(1, 4, 6), "depth"),
        (np.zeros((4, 6), dtype=np.float32), "depth"),
        (torch.zeros(3, 4, 6), "image"),
        (np.zeros((4, 6, 3), dtype=np.uint8), "image"),
        (torch.zeros(5), "vector"),
        ([0.5, 1.5], "vector"),
        ("cat", "class"),
    ],
)
def test_the_kind_is_told_by_type_and_shape(target: Any, kind: str) -> None:
    assert guess_kind(target) == kind


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_masks_and_depths_of_a_callable(given: Given, cache: str) -> None:
    masks = [(Image.fromarray(scene(k)[0]), Image.fromarray(scene(k)[1])) for k in range(20)]
    data = load(given(masks), args={"classes": 3, "ignore": 11}, cache=cache)
    assert (data.info.target, data.info.class_names) == ("mask", ("0", "1", "2"))
    batch = next(iter(data.evaluation("val")))
    assert np.array_equal(batch.target[0], scene(int(batch.id[0]))[1])
    depths = load(given(items(lambda k: torch.full((4, 6), k / 2 if k else float("nan")))), batch_size=16, cache=cache)
    assert depths.info.target_shape == (1, 4, 6)
    batch = next(depths.training())
    assert torch.equal(batch.target[:, 0, 0, 0], batch.id / 2)  # floats are metres, and what is not finite is a hole
    assert "depths must be >= 0 (0: nothing measured), got -1 m" in fault_of(
        given([*items(lambda k: torch.ones(4, 6)), *items(lambda k: -torch.ones(4, 6))]), cache="memory"
    )


def test_vectors_images_and_nothing(given: Given) -> None:
    vectors = load(given(TensorDataset(torch.randn(20, 3), torch.arange(60.0).reshape(20, 3))), batch_size=16)
    batch = next(vectors.training())
    assert torch.equal(batch.target, torch.arange(60.0).reshape(20, 3)[batch.id])
    assert (vectors.info.target, vectors.info.target_shape) == ("vector", (3,))
    images = load(given(items(lambda k: torch.full((3, 4, 6), k, dtype=torch.uint8))), batch_size=16)
    batch = next(images.training())
    assert torch.equal(batch.target[:, 2, 0, 0], batch.id / 255)
    nothing = load(given([torch.full((1, 4, 6), k / 20) for k in range(20)]), args={"target": "none"}, batch_size=16)
    assert next(nothing.training()).target is None
    said = load(given(items(lambda k: float(k))), args={"target": "vector"}, batch_size=16)
    assert next(said.training()).target.shape == (16, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_differ_in_number_and_travel(given: Given, workers: int) -> None:
    def boxes(k: int) -> dict[str, Any]:
        return {"boxes": torch.tensor([[0.0, 0, k % 6 + 1, 2]] * (k % 4)).reshape(-1, 4), "labels": [k % 2] * (k % 4)}

    data = load(
        given(items(boxes)), args={"classes": ["a", "b"]}, size=[8, 12], batch_size=5, workers=workers, cache="memory"
    )
    assert (data.info.target, data.info.classes, data.info.target_shape) == ("boxes", 2, ())
    batch = next(data.training())
    data.close()
    assert isinstance(batch.target, list)
    for i, target in zip(batch.id.tolist(), batch.target, strict=True):
        assert target["boxes"].tolist() == [[0, 0, 2 * (i % 6 + 1), 4]] * (i % 4)
        assert target["labels"].tolist() == [i % 2] * (i % 4)
        assert target["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("target", "args", "said"),
    [
        (torch.zeros(4, 6).long(), {}, "data.args.classes: mask targets need classes"),
        (torch.zeros(4, 5).long(), {"classes": 2}, "the mask must have its image's size, 6x4 (width x height), got 5x4"),
        (torch.full((4, 6), 2), {"classes": 2}, "mask values must be class indices; 24 pixels are not: 2 (classes are 0 to 1; `values` lists the value that is stored for each class; `ignore`"),
        (torch.zeros(4, 6), {"target": "mask", "classes": 2}, "the mask must hold whole numbers (class indices), got float32"),
        ({"boxes": [[0, 0, 1, 1]], "labels": [2]}, {"classes": 2}, "labels of boxes must be 0 to 1, got [2]"),
        ({"boxes": [[3, 0, 1, 1]], "labels": [0]}, {"classes": 2}, "boxes must lie in their image, with x1 < x2 and y1 < y2: 20 of 20 do not"),
        ({"boxes": [[0, 0, 1, 1]], "labels": []}, {"classes": 2}, "each box must have one label, got 1 boxes and 0 labels"),
        ({"box": []}, {"classes": 2}, "the target must have boxes and labels, got a dict of box"),
        ([0.5, float("nan")], {}, "the target's numbers must be finite"),
        (torch.zeros(2, 2, 2, 2).long(), {"classes": 2}, "the mask must have one channel, got shape (2, 2, 2, 2)"),
        (3, {"target": "claas"}, "data.args.target: must be one of 'class', 'mask'"),
        (3, {"classes": 2, "scale": 3.0}, "data.args.scale: needs a target of kind depth, got class"),
    ],
)  # fmt: skip
def test_faults_of_targets(given: Given, target: Any, args: dict[str, Any], said: str) -> None:
    assert said in fault_of(given(items(lambda k: target)), args=args)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_items_that_cannot_be_read_are_left_out(given: Given, cache: str) -> None:
    class Torn(list[Any]):
        def __getitem__(self, i: Any) -> Any:
            if i in (0, 7):
                raise OSError("torn")
            return super().__getitem__(i)

    torn = given(Torn(items(lambda k: torch.full((4, 6), k % 2))))
    args = {"target": "mask", "classes": 2}
    assert "sample 0: this sample cannot be read: OSError: torn" in fault_of(torn, args=args, cache=cache)
    with pytest.warns(StillhouseWarning, match="2 of 20 samples are left out: sh_given:make, split 'train', sample 0:"):
        data = load(torn, args=args, cache=cache, skip_bad=True)
    held = [i for split in data.splits for batch in data.evaluation(split) for i in batch.id.tolist()]
    assert sorted(held) == [i for i in range(20) if i not in (0, 7)]


def test_the_callables_own_arguments_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sh_given")
    vars(module)["make"] = lambda target: items(lambda k: torch.full((4, 6), target))
    monkeypatch.setitem(sys.modules, "sh_given", module)
    data = load("sh_given:make", args={"target": 1, "classes": 2})
    assert int(next(data.training()).target.min()) == 1


def test_a_torchvision_data_set_of_masks(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    for split, numbers in (("train", range(4)), ("val", range(4, 7))):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(f"im{k}" for k in numbers))
        for k in numbers:
            image, mask = scene(k, (9, 8 + k))
            Image.fromarray(image).save(base / "JPEGImages" / f"im{k}.jpg")
            Image.fromarray(np.where(mask == 11, 255, mask).astype(np.uint8), mode="P").save(
                base / "SegmentationClass" / f"im{k}.png"
            )
    args = {"root": str(tmp_path), "download": False, "classes": 21, "ignore": 255}
    data = load("torchvision:VOCSegmentation", args=args, crop=8, batch_size=3)
    assert data.info.sizes == {"train": 4, "val": 3}
    assert (data.info.target, data.info.ignore) == ("mask", 255)
    assert next(data.training()).target.shape == (3, 8, 8)
    assert set(next(iter(data.evaluation("val"))).target.unique().tolist()) <= {0, 1, 2, 255}


def test_every_tensor_in_a_target_is_reached() -> None:
    tree = (torch.ones(2), [{"boxes": torch.ones(1, 4), "name": "a"}], None)
    made = map_tensors(lambda x: x + 1, tree)
    assert made[0].tolist() == [2, 2]
    assert made[1][0]["boxes"].tolist() == [[2, 2, 2, 2]]
    assert made[1][0]["name"] == "a"
    assert made[2] is None
