"""Parts of paired images: nested limits, blocks that keep neighbours apart, and the fingerprint of what is left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.dense_files import DEPTHS, MASKS, load, masked, ranged, save, scene

from stillhouse.config.structure import structure, unstructure
from stillhouse.data import Data, DataSpec
from stillhouse.errors import StillhouseError


def fault_of(name: str, **options: Any) -> str:
    return "\n".join(faults_of(name, **options))


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def ids_of(data: Data, split: str) -> list[int]:
    return [int(i) for batch in data.evaluation(split) for i in batch.id]


def test_limits_are_nested_and_seeded(tmp_path: Path) -> None:
    name = ranged(tmp_path, n=30)
    few, more = (load(name, args=DEPTHS, limit=n) for n in (5, 9))
    assert few.info.sizes == {"train": 5, "val": 3, "test": 3}
    assert set(ids_of(few, "train")) < set(ids_of(more, "train")) < set(ids_of(load(name, args=DEPTHS), "train"))
    assert ids_of(load(name, 1, args=DEPTHS, limit=5), "train") != ids_of(few, "train")
    assert few.info.mean == load(name, args=DEPTHS).info.mean
    assert (
        fault_of(name, args=DEPTHS, limit=25)
        == "data.limit: must be at most the number of training samples, 24, got 25"
    )
    assert fault_of(name, args=DEPTHS, per_class=2).startswith(
        "data.per_class: needs targets of kind 'class', got 'depth'"
    )
    assert fault_of(name, args=DEPTHS, per_class=2, limit=3).startswith("limit: cannot be combined with `per_class`")


def test_blocks_keep_neighbours_apart(tmp_path: Path) -> None:
    name = ranged(tmp_path, n=40, size=(2, 2))
    plan = ["train", "val", "train", "test", "train"]
    data = load(name, args=DEPTHS, split=structure({"blocks": plan, "gap": 2}, _block(), "split"))
    ids = {split: ids_of(data, split) for split in data.splits}
    assert ids["val"] == list(range(8, 16))
    assert ids["test"] == list(range(24, 32))
    assert ids["train"] == [*range(6), *range(18, 22), *range(34, 40)]
    counted = load(name, args=DEPTHS, split=_block()(blocks=10, gap=1))
    assert {split: ids_of(counted, split) for split in ("val", "test")} == {
        "val": [8, 9, 10, 11],
        "test": [28, 29, 30, 31],
    }
    for split in ("val", "test"):
        near = {i + d for i in ids_of(counted, split) for d in (-1, 1)} - set(ids_of(counted, split))
        assert not near & set(ids_of(counted, "train"))
    assert counted.info.fingerprint != load(name, args=DEPTHS, split=_block()(blocks=10, gap=2)).info.fingerprint


def _block() -> Any:
    from stillhouse.config.data import BlockSplit

    return BlockSplit


def test_blocks_of_train_replace_the_datas_own_val(tmp_path: Path) -> None:
    name = masked(tmp_path, n=9)
    data = load(name, args=MASKS, split=_block()(blocks=("train", "train", "val"), gap=1))
    assert {split: ids_of(data, split) for split in data.splits} == {
        "train": [0, 1, 2, 3, 4],
        "val": [6, 7, 8],
        "test": list(range(18, 27)),
    }
    text = fault_of(name, args=MASKS, split=_block()(blocks=("train", "val", "test")))
    assert text.startswith("data.split.blocks: must be of train and val: the data has a test split of its own")
    assert "block 0 has 3, got gap = 3" in fault_of(
        name, args=MASKS, split=_block()(blocks=("train", "val", "train"), gap=3)
    )
    with pytest.raises(StillhouseError, match="must name train and val, got"):
        _block()(blocks=("train", "test", "train"))


def test_the_table_takes_blocks_and_gives_them_back() -> None:
    table = {"name": "pairs:x", "split": {"blocks": ["train", "val", "train"], "gap": 10}, "crop": [4, 6], "limit": 3}
    spec: DataSpec = structure(table, DataSpec, "data")
    assert spec.split == _block()(blocks=("train", "val", "train"), gap=10)
    assert spec.crop_height_and_width == (4, 6)
    assert structure(unstructure(spec), DataSpec, "data") == spec
    with pytest.raises(StillhouseError, match=r"data\.split\.blocks"):
        structure({"name": "pairs:x", "split": {"blocks": ["train", "vall"]}}, DataSpec, "data")


def test_the_fingerprint_follows_labels_and_options(tmp_path: Path) -> None:
    name = masked(tmp_path / "a")
    first = load(name, args=MASKS).info.fingerprint
    assert load(name, args=MASKS, workers=1, cache="none", prefetch=5).info.fingerprint == first
    others = [
        load(name, args=MASKS, size=8),
        load(name, args=MASKS, crop=8),
        load(name, args=MASKS, limit=3),
        load(name, args={**MASKS, "classes": ["a", "b", "c"]}),
    ]
    assert len({first, *(data.info.fingerprint for data in others)}) == 5
    (tmp_path / "a").rename(tmp_path / "b")
    moved = f"pairs:{tmp_path / 'b'}"
    assert load(moved, args=MASKS).info.fingerprint == first
    path = tmp_path / "b" / "valannot" / "003.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(moved, args=MASKS).info.fingerprint == first  # a copy has other times
    save(path, scene(0)[1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(moved, args=MASKS).info.fingerprint != first  # a mask belongs to the content


@pytest.mark.parametrize("blocks", [2, 100_001, 2**63 - 1])
def test_a_number_of_blocks_that_nobody_means_is_refused(blocks: int) -> None:
    with pytest.raises(StillhouseError, match=f"blocks: must be from 3 to 100,000, got {blocks}"):
        _block()(blocks=blocks)
