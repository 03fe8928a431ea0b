"""A look at samples before training: what cannot be used is named, what nobody could learn from is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.dense_files import DEPTHS, MASKS, load, masked, ranged, save, scene
from support.loading import Given
from torch.utils.data import Dataset, TensorDataset

from stillhouse import Recipe, prepare
from stillhouse.errors import StillhouseError, StillhouseWarning


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def pictures(n: int, size: tuple[int, int] = (6, 8)) -> torch.Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(n))


# --- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["data", "none", "imagenet"])
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("kind", ["class", "mask"])
def test_inputs_that_are_all_the_same_are_refused(given: Given, normalize: str, cache: str, kind: str):
    inputs = torch.tensor([0.25, 0.5, 0.75])[:, None, None].expand(20, 3, 4, 6)
    targets = torch.arange(20) % 2 if kind == "class" else torch.arange(24).reshape(4, 6).expand(20, 4, 6) % 2
    args = {} if kind == "class" else {"classes": 2}
    name = given(TensorDataset(inputs, targets))
    (text,) = faults_of(name, normalize=normalize, cache=cache, args=args)
    assert text == (
        "data: every input is constant, and the same: 0.25, 0.5, 0.75 in each of 16 training samples "
        "(look at sh_given:make, split 'train', sample 0)"
    )
    varied = inputs.clone()
    varied[7] += 0.1
    load(given(TensorDataset(varied, targets)), normalize=normalize, cache=cache, args=args)


@pytest.mark.parametrize("normalize", ["data", "none"])
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_named_by_its_own_place(given: Given, normalize: str, cache: str, value: float):
    inputs = pictures(40)
    inputs[33, 1, 2, 3] = value
    name = given(
        {"train": TensorDataset(inputs, torch.arange(40) % 2), "val": TensorDataset(inputs[:9], torch.arange(9) % 2)}
    )
    (text,) = faults_of(name, normalize=normalize, cache=cache)
    kind = "NaN" if value != value else "infinite"
    assert text == (
        f"sh_given:make, split 'train', sample 33: the input must be finite: 1 of 144 values are {kind} "
        "(--skip-bad leaves such samples out)"
    )
    with pytest.warns(StillhouseWarning, match="1 of 49 samples are left out"):
        assert load(name, normalize=normalize, cache=cache, skip_bad=True).info.sizes == {"train": 39, "val": 9}


def test_an_input_that_becomes_nan_later_is_named_in_the_run(given: Given):
    class Fading(Dataset[Any]):
        seen = False

        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            return pictures(20)[i] * (float("nan") if self.seen and i == 11 else 1.0), i % 2

    fading = Fading()
    data = load(given({"train": fading}), val_fraction=0.0)
    fading.seen = True
    with pytest.raises(StillhouseError, match="sample 11: the input must be finite: 144 of 144 values are NaN"):
        list(data.evaluation("train"))


# --- what is not in memory -----------------------------------------------------------------------------------------


def test_samples_that_are_not_in_memory_are_looked_at_and_every_bad_one_is_named(given: Given):
    class Torn(Dataset[Any]):
        classes = ("a", "b")

        def __init__(self, n: int, bad: set[int]) -> None:
            self.n, self.bad, self.read = n, bad, set()
            self.targets = [k % 2 for k in range(n)]

        def __len__(self) -> int:
            return self.n

        def __getitem__(self, i: int) -> Any:
            self.read.add(i)
            if i in self.bad:
                raise OSError(f"{i} is torn")
            return torch.full((1, 4, 4), i / self.n), i % 2

    train, val, test = Torn(5000, set()), Torn(3000, {3}), Torn(700, {0, 699})
    texts = faults_of(given({"train": train, "val": val, "test": test}), normalize="none", batch_size=16)
    assert [text.partition(": this sample")[0] for text in texts] == [
        "sh_given:make, split 'val', sample 3",  # of the first batch
        "sh_given:make, split 'test', sample 0",
        "sh_given:make, split 'test', sample 699",
    ]
    assert len(train.read) < 500  # and no more than a look
    measured = Torn(5000, {1, 3})
    texts = faults_of(given({"train": measured}), batch_size=16, val_fraction=0.0)
    assert [text.partition(": this sample")[0][-8:] for text in texts] == ["sample 1", "sample 3"]


def test_a_validation_batch_is_made_before_the_first_step(tmp_path: Path):
    from stillhouse.tasks.segmentation import Segmentation

    class Picky(Segmentation):
        def sample(self, image: Any, target: Any) -> Any:
            if int(target[0, 0]) == 77:
                raise ValueError("77 is not for me")
            return super().sample(image, target)

    args = {**MASKS, "classes": 80, "ignore": 255}
    name = masked(tmp_path)
    mask = scene(104)[1]
    mask[0, 0] = 77
    save(tmp_path / "valannot" / "004.png", mask)
    with pytest.raises(StillhouseError, match=r"Picky.sample fails on .*val/004.png: ValueError: 77 is not for me"):
        load(name, task=Picky(), args=args, cache="none", normalize="none")


# --- classes -------------------------------------------------------------------------------------------------------


def test_classes_that_are_missing_are_said_before_training(given: Given):
    train = TensorDataset(pictures(12), torch.tensor([0, 1, 3] * 4))
    val = TensorDataset(pictures(6), torch.tensor([0, 1] * 3))
    name = given({"train": train, "val": val})
    notes = load(name, args={"classes": ["ant", "bee", "cow", "dog"]}).notes
    assert notes == (
        "1 of 4 classes are without a training sample: 'cow' (nothing is learnt of them)",
        "2 of 4 classes are without a validation sample: 'cow', 'dog' (the score says nothing of them)",
    )
    tables = {
        "run": {"epochs": 1},
        "data": {"name": name, "args": {"classes": ["ant", "bee", "cow", "dog"]}},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": 2}},
    }
    with pytest.warns(StillhouseWarning) as caught:
        prepare(Recipe.from_dict(tables), write=False).close()
    assert [str(w.message) for w in caught] == list(notes)


def test_a_class_without_a_pixel_is_said(tmp_path: Path):
    """Masks of 0 and 255 led by the message's own hint to a run without its foreground."""
    for k in range(20):
        mask = np.zeros((6, 8), dtype=np.uint8)
        mask[2:4, 2:5] = 255
        save(tmp_path / "i" / f"{k}.png", scene(k, (6, 8))[0])
        save(tmp_path / "m" / f"{k}.png", mask)
    args = {"images": "i/*.png", "labels": "m/*.png", "target": "mask", "classes": ["ground", "leaf"]}
    name = f"pairs:{tmp_path}"
    assert (
        "; values = [0, 255], say, if the classes are stored as these, in this order" in faults_of(name, args=args)[0]
    )
    for cache in ("memory", "none"):
        assert load(name, args={**args, "ignore": 255}, cache=cache).notes == (
            "1 of 2 classes are without a pixel of a training mask: 'leaf' (nothing is learnt of them)",
            "1 of 2 classes are without a pixel of a validation mask: 'leaf' (the score says nothing of them)",
        )
    data = load(name, args={**args, "values": [0, 255]}, batch_size=16)
    assert data.notes == ()
    assert next(data.training()).target.sum() == 16 * 6


def test_of_masks_that_are_read_some_are_looked_at(tmp_path: Path):
    name = masked(tmp_path, n=140, splits=("train", "val"), size=(3, 3))
    args = {**MASKS, "classes": ["sky", "road", "car", "tram"]}
    (first, second) = load(name, args=args, cache="none", normalize="none", batch_size=4).notes
    assert first.startswith("1 of 4 classes are without a pixel of a training mask among the 128 looked at: 'tram'")
    assert "without a pixel of a validation mask among the 1" in second


# --- depths and numbers --------------------------------------------------------------------------------------------


def test_depths_without_a_measurement_and_numbers_that_never_differ_are_said(tmp_path: Path, given: Given):
    name = ranged(tmp_path)
    for path in tmp_path.glob("*.depth.png"):
        save(path, np.zeros((8, 10), dtype=np.uint16))
    assert load(name, args=DEPTHS).notes == ("none of the 16 training depths looked at has a measured pixel",)
    numbers = torch.rand(30, 3)
    numbers[:, 1] = 7.0
    said = load(given(TensorDataset(pictures(30), numbers))).notes
    assert said == ("1 of 3 numbers of the target are the same in all 24 training samples looked at: 1",)


# --- boxes ---------------------------------------------------------------------------------------------------------


def boxed(given: Given, boxes: list[list[float]], n: int = 20) -> str:
    """Images of 480x640 as blood smears are, each with these boxes."""
    image = torch.rand(1, 48, 64)
    target = {"boxes": boxes, "labels": [k % 2 for k in range(len(boxes))]}
    return given([(image + k / n, target) for k in range(n)])


ARGS = {"target": "boxes", "classes": ["red", "white"]}


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_box_without_area_costs_neither_its_image_nor_the_run(given: Given, cache: str):
    bad = [18.1, 32.9, 18.1, 32.9]
    name = boxed(
        given, [[1.0, 2, 30, 40], [1.0, 1, 4, 4], bad, [5.0, 5, 9, 9], [0.0, float("nan"), 9, 9], [5.0, 5, 70, 52]]
    )
    with pytest.warns(StillhouseWarning) as caught:
        data = load(name, args=ARGS, cache=cache, batch_size=16)
    assert str(caught[0].message) == (
        "of 120 boxes in 20 images looked at, which should lie in their image, 40 have no area there and are left out "
        "and 20 are cut off at its border, the first in sh_given:make, split 'train', sample 0"
    )
    target = next(data.training()).target[3]
    assert target["boxes"].tolist() == [[1, 2, 30, 40], [1, 1, 4, 4], [5, 5, 9, 9], [5, 5, 64, 48]]
    assert target["labels"].tolist() == [0, 1, 1, 1]
    assert target.keys() == {"boxes", "labels"}


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([[30.0, 20, 10, 5], [40.0, 30, 8, 9]], "40 of 40 do not, such as 30, 20, 10, 5 in 64x48 (width x height)"),
        ([[0.1, 0.2, 0.5, 0.6]], "boxes must be in pixels, and all 20 lie between 0 and 1"),
        ([[0.1, -0.2, 0.5, 0.6], [0.5, 0.1, 1.3, 0.9]], "boxes must be in pixels, and all 40 lie between 0 and 2"),
        ([[100.0, 10, 300, 40]], "20 of 20 do not, such as 100, 10, 300, 40 in 64x48"),
    ],
)
def test_boxes_in_another_form_are_refused(given: Given, boxes: list[list[float]], says: str):
    assert says in faults_of(boxed(given, boxes), args=ARGS)[0]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"boxes": [[1.0, 2, 3, 4, 0.5]], "labels": [0]}, "boxes must be (N, 4), got (1, 5)"),
        ({"boxes": [["a", 2, 3, 4]], "labels": [0]}, "boxes and labels must be numbers"),
        ({"boxes": [[1.0, 2, 3, 4]], "labels": ["red"]}, "boxes and labels must be numbers"),
    ],
)
def test_targets_that_are_no_boxes_are_refused(given: Given, target: dict[str, Any], says: str):
    assert says in faults_of(given([(torch.rand(1, 8, 8), target) for _ in range(20)]), args=ARGS)[0]


def test_images_without_a_box_are_kept_and_rounding_is_no_fault(given: Given):
    images = [
        (torch.rand(1, 48, 64), {"boxes": [[0.0, 0, 64.6, 48.4]] * (k % 3), "labels": [0, 1][: k % 3]})
        for k in range(30)
    ]
    data = load(given(images), args=ARGS, batch_size=24, val_fraction=0.0)
    assert data.notes == ()
    assert sorted(len(t["labels"]) for t in next(data.training()).target) == [0] * 8 + [1] * 8 + [2] * 8
