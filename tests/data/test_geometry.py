"""One random geometry for input and target; sizes that differ between samples, and between training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dense_files import DEPTHS, MASKS, load, masked, ranged, save, scene

from stillhouse.data import Batch
from stillhouse.data.augmentation import build_transforms
from stillhouse.data.geometry import Geometry
from stillhouse.data.targets import convert_target, resize_target
from stillhouse.errors import StillhouseError
from stillhouse.seeds import OwnRandomness

FLIP = {"use": "RandomHorizontalFlip"}
TURN = {"use": "RandomRotation", "degrees": 60}
CROP = {"use": "RandomCrop", "size": [6, 7]}
COLOUR = {"use": "ColorJitter", "brightness": 0.9, "contrast": 0.9, "hue": 0.5}


def red(batch: Batch) -> torch.Tensor:
    """What the first channel held (B, H, W), as bytes."""
    return batch.input[:, 0].mul(255).round().long()


def fault_of(name: str, **options: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return str(caught.value.faults[0])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_masks_move_with_their_images(tmp_path: Path, cache: str) -> None:
    data = load(
        masked(tmp_path), args=MASKS, normalize="none", batch_size=6, cache=cache, transforms=(FLIP, TURN, CROP)
    )
    assert (data.info.input_shape, data.info.eval_shape) == ((3, 6, 7), (3, 10, 12))
    assert [together for _, together in data.transforms] == [False] * 3  # each image moves with its mask
    moved = 0
    for _, batch in zip(range(8), data.training(), strict=False):
        assert batch.target.shape == (6, 6, 7)
        outside = (red(batch) == 0) & (batch.target == 11)  # the image's fill is black, the mask's is `ignore`
        assert bool((outside | (red(batch) == 20 * batch.target)).all())
        moved += int(outside.sum())
    assert moved > 30
    whole = next(iter(data.evaluation("train")))
    assert torch.equal(red(whole), 20 * whole.target)
    assert torch.equal(whole.target[0], torch.from_numpy(scene(0)[1]).long())
    assert data.example().input.shape == (2, 3, 6, 7)


def test_depths_move_with_their_images_and_none_is_made_up(tmp_path: Path) -> None:
    transforms = (FLIP, TURN, {"use": "RandomResizedCrop", "size": [8, 10], "interpolation": "nearest"})
    data = load(ranged(tmp_path), args=DEPTHS, normalize="none", batch_size=16, transforms=transforms)
    for _, batch in zip(range(5), data.training(), strict=False):
        assert batch.target.shape == (16, 1, 8, 10)
        tenths = batch.target[:, 0] * 10
        np.testing.assert_allclose(tenths, tenths.round(), atol=1e-4)
        assert bool((red(batch) == tenths.round()).float().mean() > 0.95)  # the two kernels may round apart at a border
        assert bool((batch.target == 0).any())


def test_colours_change_the_image_alone(tmp_path: Path) -> None:
    plain, jittered = (
        load(masked(tmp_path), args=MASKS, batch_size=6, transforms=transforms) for transforms in ((), (COLOUR,))
    )
    a, b = next(plain.training()), next(jittered.training())
    assert torch.equal(a.target, b.target)
    assert not torch.allclose(a.input, b.input, atol=0.1)
    args = {"images": "{split}/*.png", "labels": "{split}/*.png", "target": "image"}
    both = load(masked(tmp_path), args=args, normalize="none", batch_size=6, transforms=(FLIP, TURN, CROP))
    batch = next(both.training())
    assert torch.equal(batch.input, batch.target)
    coloured = load(masked(tmp_path), args=args, normalize="none", batch_size=6, transforms=(FLIP, CROP, COLOUR))
    batch = next(coloured.training())
    assert not torch.allclose(batch.input, batch.target, atol=0.1)
    assert set((batch.target[:, 0] * 255).round().unique().tolist()) <= {0, 20, 40, 220}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), left=st.integers(0, 6), top=st.integers(0, 4), width=st.integers(3, 6))
def test_boxes_stay_on_what_they_frame(seed: int, left: int, top: int, width: int) -> None:
    image = torch.zeros(1, 12, 14, dtype=torch.uint8)
    image[0, top : top + 4, left : left + width] = 200
    boxes = torch.tensor([[left, top, left + width, top + 4], [0.0, 0, 14, 12]])
    tables = [{"use": "RandomHorizontalFlip"}, {"use": "RandomVerticalFlip"}, {"use": "RandomCrop", "size": [8, 9]}]
    transforms = build_transforms(tables, kind="boxes")
    assert transforms is not None
    with OwnRandomness() as randomness:
        randomness.seed(seed)
        x, target = Geometry(transforms, "boxes")(image, {"boxes": boxes, "labels": torch.tensor([1, 0])})
    assert type(x) is torch.Tensor
    assert x.shape == (1, 8, 9)
    rows, columns = np.nonzero(x[0].numpy())
    framed = target["boxes"][target["labels"] == 1]
    if len(rows) == 0:
        assert len(framed) == 0
    else:
        assert framed.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert target["boxes"][target["labels"] == 0].tolist() == [[0, 0, 9, 8]]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(h=st.integers(2, 9), w=st.integers(2, 9), size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_resized_targets_take_the_nearest_pixel(h: int, w: int, size: tuple[int, int]) -> None:
    mask = torch.randint(0, 250, (h, w), generator=torch.Generator().manual_seed(h * 10 + w)).to(torch.uint8)
    rows = np.minimum(((np.arange(size[0]) + 0.5) * h / size[0]).astype(int), h - 1)
    columns = np.minimum(((np.arange(size[1]) + 0.5) * w / size[1]).astype(int), w - 1)
    expected = mask.numpy()[rows][:, columns]
    assert np.array_equal(resize_target("mask", mask, (h, w), size), expected)
    depth = resize_target("depth", mask.float()[None], (h, w), size)
    assert np.array_equal(depth[0], expected)
    boxes = resize_target("boxes", {"boxes": torch.tensor([[0.0, 0, w, h]]), "labels": torch.tensor([0])}, (h, w), size)
    np.testing.assert_allclose(boxes["boxes"], [[0, 0, size[1], size[0]]], rtol=1e-6)


def test_a_task_never_gets_what_is_kept() -> None:
    for kind, kept in (
        ("depth", torch.ones(1, 2, 2)),
        ("image", torch.ones(3, 2, 2)),
        ("mask", torch.ones(2, 2).byte()),
    ):
        convert_target(kind, kept).zero_()
        assert bool((kept == 1).all())


def test_masks_without_ignore_refuse_what_brings_pixels_in(tmp_path: Path) -> None:
    name, args = masked(tmp_path), {k: v for k, v in MASKS.items() if k != "ignore"} | {"classes": 12}
    text = fault_of(name, args=args, transforms=(FLIP, TURN))
    assert text.startswith("data.transforms[1]: RandomRotation moves unlabelled pixels into masks")
    assert load(name, args=args, transforms=(FLIP, CROP)).info.input_shape == (3, 6, 7)
    padded = {"use": "RandomApply", "transforms": [{**CROP, "padding": 2}]}
    assert "data.transforms[0].transforms[0]: RandomCrop moves" in fault_of(name, args=args, transforms=(padded,))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"use": "RandAugment"}, "data.transforms[0]: RandAugment fails on "),
        ({"use": "FiveCrop", "size": 4}, "data.transforms[0]: FiveCrop fails on "),
        ({"use": "RandomCrop", "size": 40}, "data.transforms[0]: RandomCrop fails on "),
        (
            {"use": "Grayscale"},
            "data.transforms: transforms must keep evaluation's 3 channels, got an input (1, 10, 12)",
        ),
    ],
)
def test_transforms_that_masks_cannot_follow(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    assert fault_of(masked(tmp_path), args=MASKS, transforms=(table,)).startswith(said)


def test_photographs_of_two_sizes_are_cropped(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for k in range(6):
            save(tmp_path / split / f"{k}.png", scene(k, (9, 14) if k % 2 else (14, 9))[0])
    name, args = f"photos:{tmp_path}", {"images": "{split}/*.png"}
    text = fault_of(name, args=args)
    assert "1.png: the input must have the shape (3, 14, 9) of " in text
    assert "0.png, got (3, 9, 14) (set size = [14, 9], or a crop, in [data])" in text
    for cache in ("memory", "none"):
        data = load(name, args=args, crop=8, normalize="none", batch_size=6, cache=cache)
        assert data.info.input_shape == data.info.eval_shape == (3, 8, 8)
        batch = next(iter(data.evaluation("val")))
        for k in range(6):  # the middle: (14 - 8) / 2 = 3, and (9 - 8) / 2 rounded to even
            image = scene(k, (9, 14) if k % 2 else (14, 9))[0].transpose(2, 0, 1)
            middle = image[:, 0:8, 3:11] if k % 2 else image[:, 3:11, 0:8]
            np.testing.assert_allclose(batch.input[k], middle / 255, atol=1e-7)
        first, second = (b.input for _, b in zip(range(2), data.training(), strict=False))
        assert first.shape == second.shape == (6, 3, 8, 8)
        assert not torch.equal(first.sum((1, 2, 3)).sort()[0], second.sum((1, 2, 3)).sort()[0])
    assert "must be at least crop = [10, 8], got (3, 9, 14)" in fault_of(name, args=args, crop=[10, 8])
    assert load(name, args=args, size=20, crop=[10, 8]).info.input_shape == (3, 10, 8)


def test_crops_of_masks_agree_and_suit_classes_too(tmp_path: Path) -> None:
    data = load(masked(tmp_path), args=MASKS, crop=5, normalize="none", batch_size=6, workers=2)
    for batches in (data.training(), data.evaluation("val")):
        batch = next(iter(batches))
        assert torch.equal(red(batch), 20 * batch.target)
    data.close()
    digits = load("sklearn:digits", crop=6, batch_size=32)
    assert next(digits.training()).input.shape == next(iter(digits.evaluation("test"))).input.shape == (32, 1, 6, 6)
