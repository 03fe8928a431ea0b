"""Looks of a batch: they follow from seed, epoch, sample and place, whatever the batch, the memory and the workers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.augmentation import build_transforms
from stillhouse.data.random_numbers import below, between, draw
from stillhouse.data.sample_errors import TransformError
from stillhouse.errors import StillhouseError
from stillhouse.seeds import mix, mix_each

CROP = {"use": "RandomCrop", "size": 8, "padding": 2}
FLIP = {"use": "RandomHorizontalFlip"}
JITTER = {"use": "ColorJitter", "brightness": 0.4, "contrast": 0.4}
RESIZED = {"use": "RandomResizedCrop", "size": 8}
TURN = {"use": "RandomRotation", "degrees": 30}
FLOATS = {"use": "RandomApply", "transforms": [{"use": "ToDtype", "dtype": "float32", "scale": True}]}
LONG = (CROP, FLIP, RESIZED, JITTER, FLOATS, {"use": "RandomVerticalFlip"}, TURN, {"use": "RandomErasing"})


def images(count: int = 12) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))


def augment(tables: tuple[dict[str, Any], ...], some: list[int], seed: int = 3, epoch: int = 5) -> list[Tensor]:
    chain = build_transforms(tables)
    assert chain is not None
    kept = images()
    return list(chain.augment([kept[i] for i in some], np.array(some, dtype=np.int64), seed, epoch))


def test_numbers_for_many_are_those_for_each() -> None:
    ids = np.array([0, 1, 7, 2**40], dtype=np.int64)
    made = mix_each(3, -5, ids=ids, counts=np.arange(3))
    assert made.tolist() == [[mix(3, -5, int(i), k) for i in ids] for k in range(3)]
    u = draw(3, ids, 3, -5)
    assert np.array_equal(u, (made >> np.uint64(11)).astype(float) / 2**53)
    assert bool(((u >= 0) & (u < 1)).all())


def test_numbers_end_before_their_limits() -> None:
    last = np.array([[0.0, 0.5, 1 - 2.0**-53]])
    for n in (1, 2, 3, 5, 7, 100, 2**20 + 1):
        assert below(last, n)[0].tolist() == [0, n // 2, n - 1]
    assert between(last, -1.0, 3.0)[0, :2].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("tables", [(CROP, FLIP), (JITTER,), LONG], ids=["placed", "computed", "mixed"])
def test_a_sample_looks_alike_in_any_batch(tables: tuple[dict[str, Any], ...]) -> None:
    together = augment(tables, list(range(12)))
    for i, x in enumerate(together):
        (alone,) = augment(tables, [i])
        assert x.dtype == alone.dtype
        assert torch.equal(x, alone)
    assert all(
        torch.equal(a, b) for a, b in zip(augment(tables, [7, 2, 11]), (together[i] for i in (7, 2, 11)), strict=True)
    )
    for other in (augment(tables, list(range(12)), seed=4), augment(tables, list(range(12)), epoch=6)):
        assert not all(torch.equal(a, b) for a, b in zip(together, other, strict=True))


def test_two_transforms_of_one_kind_draw_apart() -> None:
    flips = [
        torch.equal(x, torch.from_numpy(image))
        for x, image in zip(augment((FLIP, FLIP), list(range(12))), images(), strict=True)
    ]
    assert {True, False} == set(flips)


def test_what_is_kept_and_the_generators_stay_as_they_are() -> None:
    chain = build_transforms((*LONG, {"use": "RandomErasing", "value": "random", "inplace": True, "p": 1.0}))
    assert chain is not None
    kept, state = images(), torch.get_rng_state()
    before = [x.copy() for x in kept]
    chain.augment(kept, np.arange(12), 0, 0)
    assert all(map(np.array_equal, kept, before))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sample_and_the_transform_that_fail_are_named() -> None:
    chain = build_transforms((FLIP, {"use": "RandomCrop", "size": 6}))
    assert chain is not None
    mixed = [np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 5), np.uint8), np.zeros((1, 9, 9), np.uint8)]
    with pytest.raises(TransformError, match="Required crop size") as caught:
        chain.augment(mixed, np.arange(3), 0, 0)
    assert (caught.value.where, caught.value.name, caught.value.row) == ("data.transforms[1]", "RandomCrop", 1)
    for channels, table in ((2, JITTER), (2, {"use": "RandomAutocontrast", "p": 1.0})):
        chain = build_transforms((FLIP, table))
        assert chain is not None
        with pytest.raises(TransformError, match="channel") as caught:
            chain.augment([np.zeros((channels, 4, 4), np.uint8)] * 2, np.arange(2), 0, 0)
        assert caught.value.name == table["use"]


def test_other_types_are_called_by_sample() -> None:
    halves = ({"use": "ToDtype", "dtype": "float16", "scale": True}, FLIP, {"use": "RandomInvert"})
    made = augment(halves, list(range(12)))
    assert {x.dtype for x in made} == {torch.float16}
    plain = torch.from_numpy(np.stack(images())).half() / 255
    as_it_is, flipped, inverted = (
        [torch.allclose(x, y, atol=2e-3) for x, y in zip(made, want, strict=True)]
        for want in (plain, plain.flip(-1), 1 - plain)
    )
    assert any(as_it_is)
    assert any(flipped)
    assert any(inverted)


# --- in a data set -------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set of 60 random pictures of 8 x 8 pixels."""
    module = ModuleType("random_pictures")
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8))
    sets = {name: TensorDataset(x, torch.arange(60) % 3) for name in ("train", "val")}
    module.open = lambda: sets  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "random_pictures:open"


def load(name: str, **options: Any) -> Data:
    return load_data(DataSpec(name=name, batch_size=16, **options), seed=1)


def test_memory_workers_and_a_later_start_change_nothing(pictures: str) -> None:
    expected = [batch.input for _, batch in zip(range(6), load(pictures, transforms=LONG).training(), strict=False)]
    for options in ({"cache": "none"}, {"workers": 2, "cache": "memory"}):
        data = load(pictures, transforms=LONG, **options)
        batches = [batch.input for _, batch in zip(range(6), data.training(), strict=False)]
        data.close()
        assert all(map(torch.equal, batches, expected))
    late = next(load(pictures, transforms=LONG).training(start_step=5))
    assert torch.equal(late.input, expected[5])


def test_normalisation_follows_as_without_augmentation(pictures: str) -> None:
    plain = next(load(pictures).training())
    crop = {"use": "RandomCrop", "size": 8}
    for tables in ((crop,), ({**FLIP, "p": 0.0},)):
        same = next(load(pictures, transforms=tables).training())
        assert torch.equal(same.input, plain.input)
    mirrored = next(load(pictures, transforms=({**FLIP, "p": 1.0},)).training())
    assert torch.equal(mirrored.input, plain.input.flip(-1))


def test_photographs_of_several_sizes_are_cropped_together(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for k in range(8):
            folder = tmp_path / split / f"{k % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            size = (9 + k, 12 - k // 2)
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    options = {"crop": 6, "transforms": ({**CROP, "size": 6}, FLIP), "normalize": "none"}
    held, read = (load(f"folder:{tmp_path}", cache=cache, **options) for cache in ("memory", "none"))
    a, b = next(held.training()), next(read.training())
    assert a.input.shape == (8, 3, 6, 6)
    assert torch.equal(a.input, b.input)


@pytest.mark.filterwarnings("ignore:.*Normalize changes what is trained on")
def test_a_batch_that_is_not_finite_names_its_sample(pictures: str) -> None:
    tables = (
        {"use": "ToDtype", "dtype": "float32", "scale": True},
        {"use": "Normalize", "mean": [0.0] * 3, "std": [1e-45] * 3},
    )
    with pytest.raises(
        StillhouseError, match=r"split 'train', sample \d+: the input must be finite: \d+ of 192 values"
    ):
        load(pictures, transforms=tables)


def test_looks_of_another_version_are_another_run(pictures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [load(pictures, transforms=tables).info.fingerprint for tables in ((), (FLIP,))]
    monkeypatch.setattr("stillhouse.data.loader.DRAWS", 3)
    after = [load(pictures, transforms=tables).info.fingerprint for tables in ((), (FLIP,))]
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_looks_in_another_precision_depend_on_no_neighbour(dtype: str):
    tables = [
        {"use": "RandomResize", "min_size": 10, "max_size": 14},
        {"use": "ToDtype", "dtype": dtype, "scale": True},
        {"use": "ColorJitter", "brightness": 0.9},
        {"use": "RandomCrop", "size": 12, "pad_if_needed": True},
    ]
    transforms = build_transforms(tables)
    assert transforms is not None
    images = list(np.random.default_rng(0).integers(0, 256, (6, 3, 12, 12), dtype=np.uint8))
    together = transforms.augment(images, np.arange(6), 0, 0)
    alone = [transforms.augment([image], np.array([i]), 0, 0)[0] for i, image in enumerate(images)]
    assert all(map(torch.equal, together, alone))
