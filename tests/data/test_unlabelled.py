"""Unlabelled samples in batches: which ones, in what order, and that their targets mean nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.config.task import TaskSpec
from stillhouse.data import Batch, Data, DataSpec, PartlyLabelled, load_data
from stillhouse.data.batch_transforms import build_batch_transforms
from stillhouse.data.sampler import EpochBatches
from stillhouse.data.unlabelled import PoolBatches
from stillhouse.errors import StillhouseError
from stillhouse.loop.stepper import split
from stillhouse.tasks import build_task

AUGMENT = ({"use": "RandomCrop", "size": 8, "padding": 1}, {"use": "RandomHorizontalFlip"})
FEW = {"per_class": 5, "pool": "rest", "batch_size": 20}


def load(task: str | None = None, **options: Any) -> Data:
    made = {"name": "sklearn:digits", **options}
    return load_data(DataSpec(**made), None if task is None else build_task(TaskSpec(name=task)), seed=3)


def take(data: Data, n: int, start: int = 0) -> list[Batch]:
    batches = list(islice(data.training(start), n))
    data.close()
    return batches


def unlabelled(batch: Batch) -> list[int]:
    return batch.id[batch.target.number :].tolist()


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.input, b.input) and torch.equal(a.id, b.id) and torch.equal(a.target.values, b.target.values)


@pytest.mark.parametrize(("ratio", "more"), [(1.0, [20, 20, 10]), (2.5, [50, 50, 25]), (0.01, [1, 1, 1])])
def test_a_batch_has_its_labelled_samples_first_and_others_in_the_ratio(ratio: float, more: list[int]):
    plain, mixed = load(per_class=5, batch_size=20), load(**FEW, unlabelled_ratio=ratio)
    few = set(plain.passes.ids("train").tolist())
    assert mixed.info.sizes["train"] == 50
    assert mixed.info.sizes["unlabelled"] == plain.passes.ids("pool").size - 50
    assert mixed.unlabelled_in_batch == more[0]
    for alone, both, count in zip(take(plain, 3), take(mixed, 3), more, strict=True):
        n = len(alone.id)
        assert both.target.labelled == [True] * n + [False] * count
        assert both.target.of == (n, n + count)
        assert torch.equal(both.id[:n], alone.id)
        assert torch.equal(both.target.select(both.target.values), alone.target)
        assert torch.equal(both.target.select(both.input), alone.input)
        assert not few & set(unlabelled(both))


def test_each_round_of_the_pool_has_all_of_it_in_another_order():
    keys = EpochBatches(ids=np.arange(8), batch_size=4, drop_last=False, seed=1)
    pool = PoolBatches(keys=keys, start_step=0, ids=np.arange(100, 110), ratio=1.0, most=4, seed=1)
    drawn = np.concatenate([key.ids[4:] for key in islice(pool, 10)])
    rounds = [drawn[k : k + 10].tolist() for k in range(0, 40, 10)]
    assert all(sorted(one) == list(range(100, 110)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 4


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_the_shares_of_processes_make_up_the_whole_batch(ratio: float):
    def stream(rank: int, world: int) -> list[tuple[np.ndarray, int]]:
        keys = EpochBatches(ids=np.arange(20), batch_size=8, drop_last=False, seed=1, rank=rank, world=world)
        pool = PoolBatches(
            keys=keys, start_step=0, ids=np.arange(50, 63), ratio=ratio, most=8 // world, seed=1, rank=rank, world=world
        )
        return [(key.ids, key.labelled) for key in islice(pool, 6)]

    for whole, first, second in zip(stream(0, 1), stream(0, 2), stream(1, 2), strict=True):
        for part in (slice(None), slice(whole[1], None)):
            own = whole[0][part]
            shares = [one[0][part if part.start is None else slice(one[1], None)] for one in (first, second)]
            assert sorted(np.concatenate(shares)) == sorted(own)


@pytest.mark.parametrize("options", [{}, {"transforms": AUGMENT}, {"cache": "none", "transforms": AUGMENT}])
def test_a_stream_that_begins_later_or_has_workers_gives_the_same(options: dict[str, Any]):
    batches = take(load(**FEW, **options), 5)
    assert all(map(same, batches[3:], take(load(**FEW, **options), 2, start=3)))
    assert all(map(same, batches, take(load(**FEW, **options, workers=2), 5)))


def test_views_repeat_for_unlabelled_samples_by_the_runs_epoch():
    data = load(**{**FEW, "per_class": 2, "pool": "all"}, transforms=AUGMENT)
    data.repeat_looks(2)
    looks: dict[tuple[int, int], torch.Tensor] = {}
    for step, batch in enumerate(take(data, 120)):
        for i, x in list(zip(batch.id.tolist(), batch.input, strict=True))[batch.target.number :]:
            assert torch.equal(looks.setdefault((i, step % 2), x), x)
    assert len(looks) > len({i for i, _ in looks})


def photograph(path: Path, value: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[0, 0] = 255 - value
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for k in range(8):
        photograph(tmp_path / "labelled" / "ab"[k % 2] / f"{k}.png", 10 + k)
        photograph(tmp_path / "photos" / f"{k}.png", 100 + k, size=(20 + k, 14))
    return tmp_path


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_folder_of_photographs_is_drawn_beside_one_with_classes(folders: Path, cache: str):
    options: dict[str, Any] = {
        "name": f"folder:{folders / 'labelled'}", "unlabelled": f"photos:{folders / 'photos'}", "unlabelled_args": {"images": "*.png"},
        "size": 8, "cache": cache,
        "val_fraction": 0.25, "batch_size": 4, "normalize": "none",
    }  # fmt: skip
    data = load(**options)
    assert data.info.sizes["unlabelled"] == 8
    assert "unlabelled" not in data.splits
    for batch in take(data, 4):
        n = batch.target.number
        assert (batch.input[:n, 0, 4, 4] * 255 < 20).all()
        assert (batch.input[n:, 0, 4, 4] * 255 > 90).all()
    alone = load(**{**options, "unlabelled": None, "unlabelled_args": {}})
    assert data.info.fingerprint != alone.info.fingerprint
    assert len(data.passes.ids("pool")) == alone.info.sizes["train"] + 8
    moved = folders / "elsewhere"
    (folders / "photos").rename(moved)
    assert load(**{**options, "unlabelled": f"photos:{moved}"}).info.fingerprint == data.info.fingerprint
    photograph(moved / "0.png", 3)
    assert load(**{**options, "unlabelled": f"photos:{moved}"}).info.fingerprint != data.info.fingerprint


def test_what_an_unlabelled_image_has_for_a_mask_is_ignored(folders: Path):
    for k in range(6):
        photograph(folders / "pairs" / f"{k}.jpg", 10 + k)
        Image.fromarray(np.full((10, 12), k % 2, dtype=np.uint8)).save(folders / "pairs" / f"{k}.png")
    data = load(
        "segmentation",
        name=f"pairs:{folders / 'pairs'}",
        args={"images": "*.jpg", "labels": "*.png", "target": "mask", "classes": 2, "ignore": 255},
        unlabelled=f"photos:{folders / 'photos'}",
        unlabelled_args={"images": "*.png"},
        size=8,
        batch_size=4,
        transforms=({"use": "RandomHorizontalFlip"},),
    )
    for batch in take(data, 3):
        n = batch.target.number
        assert batch.target.values.shape[1:] == (8, 8)
        assert (batch.target.values[:n] != 255).all()
        assert (batch.target.values[n:] == 255).all()


def test_partly_labelled_targets_are_sliced_with_their_batch():
    batch = Batch(
        torch.arange(7.0)[:, None], PartlyLabelled(torch.arange(7), [True] * 3 + [False] * 4, (3, 7)), torch.arange(7)
    )
    parts = split(batch, 3)
    assert [part.id.tolist() for part in parts] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [part.target.number for part in parts] == [1, 1, 1]
    assert [part.target.select(part.input).flatten().tolist() for part in parts] == [[0.0], [1.0], [2.0]]
    assert all(part.target.of == (3, 7) for part in parts)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"pool": "rest"}, "pool"),
        ({"pool": "all", "unlabelled": "sklearn:digits"}, "pool"),
        ({"pool": "all", "unlabelled_ratio": 0.0}, "unlabelled_ratio"),
        ({"pool": "all", "unlabelled_ratio": 1e9}, "unlabelled_ratio"),
        ({"unlabelled_ratio": 2.0}, "unlabelled_ratio"),
        ({"terms": "labelled"}, "terms"),
        ({"unlabelled_args": {"images": "*.jpg"}}, "unlabelled_args"),
        ({"pool": "rest", "limit": 1079}, "data.pool"),
        ({"unlabelled": "photos:nowhere", "unlabelled_args": {"images": "*.jpg"}}, "data.unlabelled"),
        ({"unlabelled": "photos:."}, "data.unlabelled_args.images"),
    ],
)
def test_what_cannot_be_is_named_by_its_key(options: dict[str, Any], where: str):
    with pytest.raises(StillhouseError) as caught:
        load(**options)
    assert caught.value.faults[0].where.startswith(where)


def test_labelled_samples_are_not_mixed_with_unlabelled_ones():
    data = load(**FEW)
    mixing = build_batch_transforms(({"use": "MixUp"},), data.info, 0, load(per_class=5).example)
    with pytest.raises(StillhouseError, match="mixed with unlabelled"):
        mixing(data.example(), 0, 0)
    flips = build_batch_transforms(({"use": "RandomHorizontalFlip", "p": 1.0},), data.info, 0, data.example)
    before = data.example()
    after = flips(before, 0, 0)
    assert after.target == before.target or torch.equal(after.target.values, before.target.values)
    assert torch.allclose(after.input, before.input.flip(-1), atol=1e-5)
