"""Sampling shard by shard: nearly forwards, mixed within a buffer, and from any step on as if it had gone on."""

from __future__ import annotations

import io
import tarfile
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import interrupted, recipe, same_state

from stillhouse import StillhouseError, prepare
from stillhouse.data import DataSpec, load_data
from stillhouse.data.sampler import EpochBatches, shuffle_shards


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    buffer=st.integers(1, 50),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_a_sample_comes_at_most_a_buffer_after_its_turn(sizes: list[int], buffer: int, seed: int, epoch: int):
    shards = np.repeat(np.arange(len(sizes)) * 2, sizes)
    order = shuffle_shards(seed, epoch, shards, buffer)
    assert sorted(order.tolist()) == list(range(len(shards)))
    assert (shuffle_shards(seed, epoch, shards, buffer) == order).all()
    plain = shuffle_shards(seed, epoch, shards, 1)
    turns = np.empty(len(shards), dtype=np.int64)
    turns[plain] = np.arange(len(shards))
    assert (np.abs(turns[order] - np.arange(len(shards))) < buffer).all()
    assert all(b == a + 1 or shards[a] != shards[b] for a, b in pairwise(plain.tolist()))
    assert len(
        {shards[i] for i, j in zip(plain, [-1, *plain], strict=False) if j < 0 or shards[i] != shards[j]}
    ) == len(sizes)


def test_epochs_have_other_orders_of_shards():
    shards = np.repeat(np.arange(8), 5)
    first = {tuple(shards[shuffle_shards(3, epoch, shards, 1)][::5]) for epoch in range(6)}
    assert len(first) > 3


@pytest.mark.parametrize("world", [1, 2])
def test_a_stream_starts_anywhere_and_processes_share_it(world: int):
    ids, shards = np.arange(100, 130), np.repeat([0, 1, 2], 10)

    def keys(start: int, rank: int) -> EpochBatches:
        more = {"rank": rank, "world": world, "shards": shards, "buffer": 4}
        return EpochBatches(ids=ids, batch_size=4, drop_last=False, seed=4, start_step=start, **more)

    for rank in range(world):
        whole = [key.ids.tolist() for key in islice(keys(0, rank), 20)]
        assert [key.ids.tolist() for key in islice(keys(9, rank), 11)] == whole[9:]
    epoch = [
        i
        for step in zip(*(islice(keys(0, rank), 7) for rank in range(world)), strict=True)
        for key in step
        for i in key.ids
    ]
    assert len(set(epoch)) == len(epoch) == 28


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for part in range(4):
        with tarfile.open(tmp_path / f"train-{part}.tar", "w") as tar:
            for k in range(6):
                file = io.BytesIO()
                pixels = np.random.default_rng(6 * part + k).integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(file, "PNG")
                for ending, content in (("png", file.getvalue()), ("cls", b"%d" % (k % 3))):
                    info = tarfile.TarInfo(f"{part}{k}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path


def test_a_run_goes_on_bit_for_bit_with_any_number_of_workers(shards: Path, tmp_path: Path):
    data = {"name": f"shards:{shards}", "args": {}, "sampling": "shards", "buffer": 3, "batch_size": 4}

    def made(workers: int) -> object:
        return recipe(teacher=None, data=data | {"workers": workers}, run__epochs=3, checkpoints={"every_steps": 1})

    whole = prepare(made(0), write=False)
    result = whole.fit()
    interrupted(prepare(made(2), out=tmp_path / "run"), at=4)
    second = prepare(made(2), out=tmp_path / "run", resume=True)
    assert second.fit().metrics == result.metrics
    assert same_state(whole.run.composition.state_dict(), second.run.composition.state_dict())


def test_a_batch_has_neighbours_of_one_shard(shards: Path):
    data = load_data(DataSpec(name=f"shards:{shards}", sampling="shards", buffer=1, batch_size=3), seed=0)
    first = next(iter(data.training()))
    data.close()
    assert first.id.tolist() == list(range(int(first.id[0]), int(first.id[0]) + 3))


def test_what_lies_in_no_shards_has_none():
    with pytest.raises(StillhouseError, match="'shards' needs data in shards, and those of sklearn:digits lie each by"):
        load_data(DataSpec(name="sklearn:digits", sampling="shards"), seed=0)
    with pytest.raises(StillhouseError, match='buffer: needs `sampling = "shards"`'):
        DataSpec(name="sklearn:digits", buffer=7)
