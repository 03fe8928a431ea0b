"""Data: splits, subsets, and batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support.loading import DIGITS, fault_of, faults_of, ids_of, load

from stillhouse.data import DataSpec, load_data
from stillhouse.data.sources import Digits
from stillhouse.errors import StillhouseError


def test_digits_are_split_alike_for_every_seed() -> None:
    first, second = load(seed=0), load(seed=1)
    assert first.info.sizes == {"train": 1079, "val": 359, "test": 359}
    assert first.splits == ("train", "val", "test")
    parts = [set(ids_of(first, split)) for split in first.splits]
    assert set.union(*parts) == set(range(1797))
    assert sum(map(len, parts)) == 1797
    assert [set(ids_of(second, split)) for split in second.splits] == parts
    target = load_digits().target
    for split, share in zip(first.splits, (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(target[ids_of(first, split)], minlength=10)
        assert np.abs(counts - share * np.bincount(target)).max() <= 1
    assert first.info.classes == 10
    assert first.info.class_names == tuple("0123456789")
    assert first.info.input_shape == (1, 8, 8)


def test_digits_lose_nothing_as_bytes() -> None:
    loaded = load_digits()
    pairs = set(zip(loaded.images.ravel().tolist(), Digits().images.flatten().tolist(), strict=True))
    assert len(pairs) == 17
    assert (0.0, 0) in pairs
    assert (16.0, 255) in pairs
    batch = load(normalize="none").example(5)
    expected = np.rint(loaded.images[batch.id.numpy()] * 255 / 16) / 255
    np.testing.assert_allclose(batch.input[:, 0].numpy(), expected, atol=1e-7)
    assert torch.equal(batch.target, torch.from_numpy(loaded.target)[batch.id])


def test_batches_normalise_by_the_training_split() -> None:
    data = load()
    inputs = torch.cat([b.input for b in data.evaluation("train")]).double()
    assert abs(inputs.mean()) < 1e-6
    assert abs(inputs.std(unbiased=False) - 1) < 1e-5
    few = load(per_class=3)
    assert few.info.mean == data.info.mean
    assert few.info.std == data.info.std
    assert load(normalize="none").info.mean == ()
    rgb = load(channels=3, normalize="imagenet")
    assert rgb.info.mean == pytest.approx((0.485, 0.456, 0.406))
    plain = load(channels=3, normalize="none").example(4).input
    np.testing.assert_allclose(rgb.example(4).input[:, 1], (plain[:, 1] - 0.456) / 0.224, atol=1e-5)
    assert "data.normalize: 'imagenet' needs inputs of 3 channels" in fault_of(normalize="imagenet")


def test_few_labels_are_stratified_seeded_and_nested() -> None:
    whole = set(ids_of(load(), "train"))
    target = load_digits().target
    previous: set[int] = set()
    for n in (1, 5, 10, 50):
        data = load(per_class=n)
        ids = set(ids_of(data, "train"))
        assert data.info.sizes["train"] == len(ids) == 10 * n
        assert np.bincount(target[sorted(ids)]).tolist() == [n] * 10
        assert previous < ids <= whole
        assert data.info.sizes["val"] == 359
        seen = {
            int(i) for _, batch in zip(range(4 * data.steps_per_epoch), data.training(), strict=False) for i in batch.id
        }
        assert seen <= ids
        previous = ids
    assert ids_of(load(per_class=5, seed=1), "train") != ids_of(load(per_class=5), "train")
    held = [ids_of(load(per_class=5, seed=s, subset_seed=7), "train") for s in (0, 1)]
    assert held[0] == held[1]


def test_more_labels_than_a_class_has_names_the_class() -> None:
    faults = faults_of(per_class=107)
    assert "data.per_class: must be at most the number of samples of class '8', 104, got 107" in faults


@pytest.mark.parametrize(("n", "drop_last", "steps"), [(64, True, 16), (64, False, 17), (5000, True, 1)])
def test_steps_and_evaluation_are_whole(n: int, drop_last: bool, steps: int) -> None:
    data = load(batch_size=n, drop_last=drop_last, eval_batch_size=100)
    assert data.steps_per_epoch == steps
    evaluation: Any = data.evaluation("test")
    sizes = [len(batch.id) for batch in evaluation]
    assert len(evaluation) == len(sizes) == 4
    assert sum(sizes) == 359
    assert [len(batch.id) for batch in evaluation] == sizes  # and again
    assert ids_of(data, "test") == sorted(ids_of(data, "test"))
    with pytest.raises(StillhouseError, match="the data has no split 'tset'"):
        data.evaluation("tset")


def test_batches_are_pinned_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.dtype] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    next(load_data(DataSpec(name=DIGITS), seed=0, pin=True).training())
    assert pinned == [torch.float32, torch.int64, torch.int64]


def test_example_repeats_when_there_are_fewer() -> None:
    data = load(per_class=1, transforms=({"use": "RandomHorizontalFlip", "p": 1.0},))
    batch = data.example(25)
    assert len(batch.id) == 25
    assert set(batch.id.tolist()) == set(ids_of(data, "train"))
    assert torch.equal(batch.input[0], next(iter(data.evaluation("train"))).input[0])
