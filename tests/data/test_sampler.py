"""Sampling: batches depend on (seed, epoch, sample) alone: not on workers, nor on where the stream starts."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stillhouse.data import Batch, Data, DataSpec, load_data
from stillhouse.data.sampler import EpochBatches, OrderedBatches, shuffle_epoch
from stillhouse.errors import StillhouseError
from stillhouse.seeds import OwnRandomness, mix

AUGMENT = (
    {"use": "RandomCrop", "size": 8, "padding": 1},
    {"use": "RandomHorizontalFlip"},
    {"use": "ColorJitter", "brightness": 0.4},
)


class NoisyDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Augments by itself, from all three generators."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        return torch.full((1, 4, 4), float(i)) + noise, i % 5


BEFORE: set[Any] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Workers of another test of this process, which nobody has collected yet, are no part of these."""
    BEFORE.clear()
    BEFORE.update(torch.multiprocessing.active_children())


def children() -> list[Any]:
    """The workers that this test has."""
    return [child for child in torch.multiprocessing.active_children() if child not in BEFORE]


def noisy() -> NoisyDataset:
    return NoisyDataset()


def load(**options: object) -> Data:
    made = {"name": "sklearn:digits", "batch_size": 100, "transforms": AUGMENT, **options}
    return load_data(DataSpec(**made), seed=3)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def take(data: Data, n: int, start: int = 0) -> list[Batch]:
    """The first batches, after which every worker is shut down."""
    batches = list(islice(data.training(start), n))
    data.close()
    return batches


@pytest.mark.parametrize("source", ["sklearn:digits", f"{__name__}:noisy"])
@pytest.mark.parametrize("cache", ["auto", "none"])
def test_workers_and_starts_change_no_bit(source: str, cache: str) -> None:
    options: dict[str, object] = {"name": source, "cache": cache, "batch_size": 9, "drop_last": False}
    options.update({"per_class": 4} if "digits" in source else {"transforms": ()})
    data = load(**options)
    steps = data.steps_per_epoch
    whole = take(data, 2 * steps + 3)
    for workers in (0, 2):
        for start in (0, steps // 2, steps, 2 * steps + 1):
            again = take(load(**options, workers=workers), len(whole) - start, start)
            assert all(same(a, b) for a, b in zip(whole[start:], again, strict=True)), (workers, start)


def test_augmentation_differs_between_epochs_and_seeds() -> None:
    data = load()
    first, second = take(data, 1)[0], take(data, 1, data.steps_per_epoch)[0]
    plain = load(transforms=())
    by_id = {int(i): x for b in take(plain, plain.steps_per_epoch) for i, x in zip(b.id, b.input, strict=True)}
    shown = [not torch.equal(x, by_id[int(i)]) for i, x in zip(first.id, first.input, strict=True) if int(i) in by_id]
    assert sum(shown) > 0.8 * len(shown)
    again = {int(i): x for i, x in zip(second.id, second.input, strict=True)}
    both = [torch.equal(x, again[int(i)]) for i, x in zip(first.id, first.input, strict=True) if int(i) in again]
    assert both
    assert sum(both) < 0.2 * len(both)
    other = next(load_data(DataSpec(name="sklearn:digits", batch_size=100), seed=4).training())
    assert not torch.equal(other.id, first.id)


def test_augmentation_of_a_sample_does_not_depend_on_its_companions() -> None:
    few, all_of_them = load(batch_size=7), load(batch_size=1000)
    one = take(few, 1)[0]
    big = take(all_of_them, 1)[0]
    rows = [int((big.id == i).nonzero()[0, 0]) for i in one.id if i in big.id]
    assert len(rows) > 3
    kept = [k for k, i in enumerate(one.id) if i in big.id]
    assert torch.equal(one.input[kept], big.input[rows])


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_not_touched(workers: int) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    data = load(workers=workers)
    take(data, 3)
    for batch in data.evaluation("val"):
        assert len(batch.input)
    data.example()
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected


def test_own_randomness_is_put_back_after_an_error() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()

    def fails() -> None:
        with OwnRandomness() as randomness:
            randomness.seed(mix(1, 2, 3))
            raise ValueError(f"on purpose, after {torch.rand(1).item()}")

    with pytest.raises(ValueError, match="on purpose"):
        fails()
    assert torch.equal(state, torch.get_rng_state())


def test_mix_separates_near_and_permuted_inputs() -> None:
    grid = [(a, b, c) for a in range(12) for b in range(12) for c in range(12)]
    assert len({mix(*parts) for parts in grid}) == len(grid)
    assert mix(1, 2) != mix(2, 1)
    assert mix(0) != mix(0, 0)
    assert mix(-1) == mix((1 << 64) - 1) < 1 << 64
    flips = [bin(mix(7, i) ^ mix(7, i + 1)).count("1") for i in range(500)]
    assert 30 < np.mean(flips) < 34  # half of 64 bits


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    orders = [shuffle_epoch(0, epoch, 50) for epoch in range(3)]
    assert all(sorted(o.tolist()) == list(range(50)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 3
    assert not np.array_equal(shuffle_epoch(0, 1, 50), shuffle_epoch(1, 0, 50))


@pytest.mark.parametrize(
    ("n", "size", "drop", "sizes"),
    [
        (10, 4, True, [4, 4]),
        (10, 4, False, [4, 4, 2]),
        (9, 4, False, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, True, [3]),
        (3, 4, False, [3]),
        (1, 1, True, [1]),
    ],
)
def test_batches_of_an_epoch(n: int, size: int, drop: bool, sizes: list[int]) -> None:
    ids = np.arange(100, 100 + n)
    keys = EpochBatches(ids=ids, batch_size=size, drop_last=drop, seed=0)
    assert keys.steps_per_epoch == len(sizes)
    for epoch in range(2):
        later = EpochBatches(ids=ids, batch_size=size, drop_last=drop, seed=0, start_step=epoch * len(sizes))
        batches = list(islice(later, len(sizes)))
        assert [len(b.ids) for b in batches] == sizes
        assert {b.epoch for b in batches} == {epoch}
        seen = np.concatenate([b.ids for b in batches])
        assert len(set(seen.tolist())) == sum(sizes)
        assert set(seen.tolist()) <= set(ids.tolist())


def test_ordered_batches_are_sized_and_whole() -> None:
    keys = OrderedBatches(ids=np.arange(10), batch_size=4)
    assert len(keys) == 3
    assert np.concatenate([k.ids for k in keys]).tolist() == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_arrives_with_its_faults(tmp_path: Path, workers: int) -> None:
    for k in range(12):
        path = tmp_path / "train" / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    options = {"batch_size": 4, "cache": "none", "normalize": "none", "val_fraction": 0.0}
    spec = DataSpec(name=f"folder:{tmp_path}", workers=workers, **options)  # type: ignore[arg-type]
    data = load_data(spec, seed=0)
    bad = tmp_path / "train" / "class1" / "7.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(StillhouseError) as caught:
        take(data, 20)
    (fault,) = caught.value.faults
    assert fault.where == str(bad)
    assert "cannot be read" in fault.what
    data.close()
    assert not children()


def test_closing_ends_the_workers() -> None:
    data = load(workers=2)
    batches = data.training()
    next(batches)
    assert len(children()) == 2
    data.close()
    assert not children()
    assert list(batches) == []


def test_workers_are_kept_over_epochs() -> None:
    data = load(workers=2)
    batches = data.training()
    next(batches)
    pids = {p.pid for p in children()}
    for _ in range(2 * data.steps_per_epoch):
        next(batches)
    assert {p.pid for p in children()} == pids
    data.close()
