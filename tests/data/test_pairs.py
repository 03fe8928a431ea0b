"""Images with a file for each one's target: what is paired, read and resized, and how batches repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from support.dense_files import DEPTHS, MASKS, load, masked, ranged, save, scene
from torch import Tensor

from stillhouse.data import Data
from stillhouse.errors import StillhouseError
from stillhouse.tasks import Task


def fault_of(name: str, **options: Any) -> str:
    return "\n".join(faults_of(name, **options))


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def ids_of(data: Data, split: str) -> list[int]:
    return [int(i) for batch in data.evaluation(split) for i in batch.id]


@attrs.frozen(kw_only=True)
class Grey(Task):
    """Grey inputs with noise; the target is the mask's share of ignored pixels beside the mask."""

    takes = ("mask",)
    score = "x"

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """See Task.sample."""
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        return image.mean(0, keepdim=True) + torch.rand(1), target


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_read_with_their_images(tmp_path: Path, cache: str, mode: str) -> None:
    name = masked(tmp_path)
    if mode == "P":
        for path in tmp_path.glob("*annot/*.png"):
            image = Image.open(path).copy()
            palette = Image.fromarray(np.asarray(image), mode="P")
            palette.putpalette([200, 10, 10] * 256)
            palette.save(path)
    data = load(name, args=MASKS, normalize="none", batch_size=4, cache=cache)
    info = data.info
    assert (info.target, info.classes, info.class_names) == ("mask", 3, ("sky", "road", "car"))
    assert (info.input_shape, info.target_shape, info.ignore) == ((3, 10, 12), (10, 12), 11)
    assert info.sizes == {"train": 6, "val": 6, "test": 6}
    assert [ids_of(data, split) for split in data.splits] == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    batch = next(iter(data.evaluation("val")))
    for k in range(4):
        image, mask = scene(100 + k)
        np.testing.assert_allclose(batch.input[k], image.transpose(2, 0, 1) / 255, atol=1e-7)
        assert np.array_equal(batch.target[k], mask)
    assert batch.target.dtype == torch.int64
    assert batch.target.shape == (4, 10, 12)


def test_depths_are_metres_and_holes_are_zero(tmp_path: Path) -> None:
    data = load(ranged(tmp_path), args=DEPTHS, normalize="none", batch_size=16)
    assert data.info.target == "depth"
    assert data.info.classes == 0
    assert data.info.sizes == {"train": 16, "val": 2, "test": 2}
    batch = next(data.training())
    assert batch.target.dtype == torch.float32
    assert batch.target.shape == (16, 1, 8, 10)
    stored = np.stack([np.asarray(Image.open(tmp_path / f"frame-{i:04}.depth.png")) for i in batch.id])
    expected = np.where(np.isin(stored, [0, 65535]), 0, stored.astype(np.float64) / 1000)
    np.testing.assert_allclose(batch.target[:, 0], expected, rtol=1e-6)
    assert (expected == 0).any()
    red = (batch.input[:, :1] * 255).round() / 10
    np.testing.assert_allclose(red, batch.target, atol=1e-5)  # the image's own
    by_default = load(ranged(tmp_path), args={k: v for k, v in DEPTHS.items() if k != "scale"}, batch_size=16)
    assert torch.equal(next(by_default.training()).target, batch.target)  # whole numbers are millimetres


def test_paired_images_and_images_alone(tmp_path: Path) -> None:
    name = masked(tmp_path)
    args = {"images": "{split}/*.png", "labels": "{split}annot/*.png", "target": "image"}
    data = load(name, args=args, normalize="none", batch_size=3)
    batch = next(iter(data.evaluation("test")))
    assert batch.target.shape == (3, 1, 10, 12)
    np.testing.assert_allclose(batch.target[1, 0], scene(201)[1] / 255, atol=1e-7)
    save(tmp_path / "trainannot" / "002.png", scene(2)[0])  # one colour image among grey ones
    assert load(name, args=args).info.target_shape == (3, 10, 12)
    alone = load(f"photos:{tmp_path}", args={"images": "{split}/*.png"}, batch_size=3)
    assert alone.info.target == "none"
    assert next(alone.training()).target is None
    assert alone.info.sizes == data.info.sizes


@pytest.mark.parametrize(
    ("images", "labels", "files"),
    [
        ("*.color.png", "*.depth.png", [("a-1.color.png", "a-1.depth.png")]),
        ("rgb/**/*.png", "seg/**/*_ids.png", [("rgb/x/1.png", "seg/x/1_ids.png"), ("rgb/y/1.png", "seg/y/1_ids.png")]),
        ("{split}/img/*.png", "{split}/seg/*.png", [("Train/img/1.png", "Train/seg/1.png")]),
        ("{split}/*.png", "all/*.png", [("train/1.png", "all/1.png"), ("validation/2.png", "all/2.png")]),
    ],
)
def test_what_the_wildcards_stand_for_pairs_files(
    tmp_path: Path, images: str, labels: str, files: list[tuple[str, str]]
) -> None:
    for k, (image, label) in enumerate(files):
        save(tmp_path / image, scene(k)[0])
        save(tmp_path / label, scene(k)[1])
    data = load(
        f"pairs:{tmp_path}", args={**MASKS, "images": images, "labels": labels}, normalize="none", val_fraction=0.0
    )
    batches = [next(iter(data.evaluation(split))) for split in data.splits]
    found = torch.cat([b.input[:, 0] for b in batches]).mul(255).round()
    assert len(found) == len(files)
    assert torch.equal(found, torch.cat([b.target for b in batches]) * 20.0)
    if "validation" in files[-1][0]:
        assert data.splits == ("train", "val")


def test_sizes_are_resized_together_and_no_value_is_made_up(tmp_path: Path) -> None:
    data = load(masked(tmp_path / "m"), args=MASKS, size=[5, 30], batch_size=6)
    batch = next(data.training())
    assert batch.input.shape == (6, 3, 5, 30)
    assert batch.target.shape == (6, 5, 30)
    assert set(batch.target.unique().tolist()) <= {0, 1, 2, 11}
    # Halved: the middle of two pixels, the greater one by convention; doubled: each pixel twice.
    tall = load(masked(tmp_path / "m"), args=MASKS, size=[20, 24], batch_size=6)
    for row, i in zip(next(tall.training()).target, next(tall.training()).id, strict=True):
        assert np.array_equal(row, scene(int(i))[1].repeat(2, 0).repeat(2, 1))
    depths = load(ranged(tmp_path / "d"), args=DEPTHS, size=[4, 20])
    values = next(depths.training()).target
    assert bool((values == 0).any())
    np.testing.assert_allclose(values * 10, (values * 10).round(), atol=1e-5)  # every depth was stored in 0.1 m


# --- the task's inputs and targets ---------------------------------------------------------------------------------


def test_a_task_makes_inputs_and_targets(tmp_path: Path) -> None:
    name = masked(tmp_path)
    data = load(name, task=Grey(), args=MASKS, batch_size=6)
    assert data.info.input_shape == (1, 10, 12)
    assert len(data.info.mean) == 1
    train = torch.cat([b.input for b in data.evaluation("train")]).double()
    assert abs(float(train.mean())) < 1e-6  # statistics are those of what the task makes
    assert abs(float(train.std(unbiased=False)) - 1) < 1e-5
    again, other = load(name, task=Grey(), args=MASKS, batch_size=6), load(name, 1, Grey(), args=MASKS, batch_size=6)
    one, two = (next(iter(d.evaluation("val"))) for d in (again, other))
    assert torch.equal(one.input, two.input)  # in evaluation by the sample alone
    assert not torch.equal(next(again.training()).input, next(other.training()).input)
    assert load(name, args=MASKS).info.fingerprint != data.info.fingerprint


def test_a_task_that_does_not_take_the_kind_is_refused(tmp_path: Path) -> None:
    assert fault_of(ranged(tmp_path), task=Grey(), args=DEPTHS) == (
        "task.name: Grey needs targets of kind 'mask', got 'depth' (another task, or other data)"
    )


def test_errors_of_a_task_name_the_sample(tmp_path: Path) -> None:
    class Broken(Grey):
        def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
            raise ValueError("no such thing")

    text = fault_of(masked(tmp_path), task=Broken(), args=MASKS)
    assert text.startswith(f"task.name: Broken.sample fails on {tmp_path / 'train' / '000.png'}: ValueError: no such")


# --- the order of random numbers -----------------------------------------------------------------------------------


AUGMENT = (
    {"use": "RandomHorizontalFlip"},
    {"use": "RandomRotation", "degrees": 30},
    {"use": "ColorJitter", "brightness": 0.5},
    {"use": "RandomCrop", "size": [6, 8]},
)


@pytest.mark.parametrize("kind", ["mask", "depth"])
def test_batches_are_the_same_with_workers_and_after_a_resume(tmp_path: Path, kind: str) -> None:
    name = masked(tmp_path, n=9) if kind == "mask" else ranged(tmp_path, n=12)
    task = Grey() if kind == "mask" else None
    options: dict[str, Any] = {"args": MASKS if kind == "mask" else DEPTHS, "batch_size": 4, "transforms": AUGMENT}

    def batches(start: int, n: int, **more: Any) -> list[Any]:
        data = load(name, task=task, **options, **more)
        found = [batch for _, batch in zip(range(n), data.training(start), strict=False)]
        data.close()
        return found

    whole = batches(0, 8)
    assert not torch.equal(whole[0].target, whole[3].target)
    for start, more in ((5, {}), (0, {"workers": 2, "prefetch": 1}), (5, {"workers": 2, "cache": "none"})):
        for a, b in zip(whole[start:], batches(start, 8 - start, **more), strict=True):
            assert torch.equal(a.id, b.id)
            assert torch.equal(a.input, b.input)
            assert torch.equal(a.target, b.target)
