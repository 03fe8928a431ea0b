"""Tar shards: an index of their headers, samples by their number, and what is wrong with them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.config.task import TaskSpec
from stillhouse.data import DataSpec, load_data
from stillhouse.data.catalogue import open_source
from stillhouse.data.shard_index import find_shards, index_shard
from stillhouse.data.sources import SourceRequest
from stillhouse.errors import StillhouseError
from stillhouse.tasks.builder import build_task


def picture(value: int, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8), value, dtype=np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def write(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def numbered(first: int, n: int = 4, **more: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for k in range(first, first + n):
        files[f"{k:04d}.png"] = picture(10 * k)
        files[f"{k:04d}.cls"] = str(k % 2).encode()
        files |= {f"{k:04d}.{ending}": content for ending, content in more.items()}
    return files


def opened(name: str, skip_bad: bool = False, **args: Any) -> Any:
    return open_source(f"shards:{name}", SourceRequest(args=args, val_fraction=0.25, skip_bad=skip_bad))


def test_samples_are_numbered_as_they_lie_and_read_by_number(tmp_path: Path):
    for part in range(3):
        write(tmp_path / f"s-{part:04d}.tar", numbered(4 * part))
    source = opened(str(tmp_path / "s-{0000..0002}.tar"))
    assert source.labels.tolist() == [0, 1] * 6
    assert [int(source.read(i)[0, 0, 0]) for i in (11, 0, 5)] == [110, 0, 50]
    assert source.place(5).endswith("s-0001.tar, 0005")
    assert source.channels() == 1
    assert sum(map(len, source.splits.values())) == 12
    assert opened(str(tmp_path / "s-*.tar")).stamp == source.stamp
    assert opened(str(tmp_path)).stamp == source.stamp


@pytest.mark.parametrize("names", [("train-0.tar", "val-0.tar"), ("train/0.tar", "valid/0.tar")])
def test_splits_are_told_by_folders_names_or_a_pattern(tmp_path: Path, names: tuple[str, str]):
    for k, name in enumerate(names):
        write(tmp_path / name, numbered(4 * k))
    found = opened(str(tmp_path)).splits
    assert {split: ids.tolist() for split, ids in found.items()} == {"train": [0, 1, 2, 3], "val": [4, 5, 6, 7]}
    pattern = names[0].replace("train", "{split}")
    assert list(opened(str(tmp_path / pattern)).splits) == ["train", "val"]


def test_a_run_of_shards_resumes_exactly_and_is_the_same_with_workers(tmp_path: Path):
    write(tmp_path / "train-0.tar", numbered(0, 10))
    write(tmp_path / "val-0.tar", numbered(10))
    transforms = ({"use": "RandomHorizontalFlip"},)
    spec = DataSpec(name=f"shards:{tmp_path}", batch_size=4, cache="none", transforms=transforms)
    plain, working = (load_data(s, seed=0) for s in (spec, attrs.evolve(spec, workers=2)))
    stream = plain.training()
    first = [next(stream) for _ in range(5)]
    later, other = plain.training(start_step=2), working.training()
    for k, batch in enumerate(first):
        assert torch.equal(next(other).input, batch.input)
        if k >= 2:
            assert torch.equal(next(later).input, batch.input)
    plain.close()
    working.close()


def test_targets_are_files_by_extension_or_entries_of_json(tmp_path: Path):
    about = json.dumps({"kind": "cat", "numbers": [1.0, 2.0], "boxes": [[1, 1, 4, 4]], "labels": [0]}).encode()
    mask = io.BytesIO()
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(mask, "PNG")
    write(tmp_path / "a.tar", numbered(0, json=about, txt=b"dog\n", **{"seg.png": mask.getvalue()}))
    place = str(tmp_path)
    assert opened(place, label="json:kind").class_names == ("cat",)
    assert opened(place, label="txt", classes=["cat", "dog"]).labels.tolist() == [1] * 4
    assert opened(place, target="vector", label="json:numbers").pair(0)[1].tolist() == [1.0, 2.0]
    boxes = opened(place, target="boxes", classes=["car"]).pair(0)[1]
    assert boxes["boxes"].tolist() == [[1, 1, 4, 4]]
    found = opened(place, target="mask", label="seg.png", classes=2).pair(0)[1]
    assert found.tolist() == np.eye(6, 8).tolist()
    assert opened(place, target="none").pair(3)[1] is None
    task = build_task(TaskSpec(name="segmentation"))
    args = {"target": "mask", "label": "seg.png", "classes": 2}
    assert load_data(DataSpec(name=f"shards:{place}", args=args), task, seed=0).info.target == "mask"


def test_a_moved_shard_is_the_same_data(tmp_path: Path):
    made = []
    for folder in ("here", "there"):
        write(tmp_path / folder / "a.tar", numbered(0, 8))
        made.append(load_data(DataSpec(name=f"shards:{folder}"), seed=0, base=tmp_path).info.fingerprint)
    write(tmp_path / "other" / "a.tar", numbered(1, 8))
    made.append(load_data(DataSpec(name="shards:other"), seed=0, base=tmp_path).info.fingerprint)
    assert made[0] == made[1] != made[2]


def test_samples_without_a_file_are_named_and_may_be_left_out(tmp_path: Path):
    files = numbered(0, 6)
    del files["0001.cls"]
    del files["0003.png"]
    write(tmp_path / "a.tar", files)
    says = r"2 of 6 samples lack a file: .*a\.tar, 0001 has no \.cls, but png; .*a\.tar, 0003 has no image, but cls"
    with pytest.raises(StillhouseError, match=says):
        opened(str(tmp_path))
    with pytest.warns(UserWarning, match="left out: 2 of 6 samples lack a file"):
        assert len(opened(str(tmp_path), skip_bad=True).labels) == 4


def test_a_damaged_shard_is_named(tmp_path: Path):
    whole = write(tmp_path / "a.tar", numbered(0, 8)).read_bytes()
    for content, says in (
        (b"", "a.tar: is no tar"),
        (b"x" * 2000, "a.tar: is no tar"),
        (whole[:700], "a.tar: is cut off"),
        (whole[:1500], "a.tar: is cut off"),
    ):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(StillhouseError, match=says):
            index_shard(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(whole)
    source = opened(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(whole[:600])
    with pytest.raises(StillhouseError, match="has been cut off since it was indexed"):
        source.read(3)
    write(tmp_path / "a.tar", {**numbered(0, 8), "0002.png": b"no picture"})
    with pytest.raises(StillhouseError, match=r"a\.tar, 0002: this image cannot be read"):
        opened(str(tmp_path)).read(2)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("none-{0000..0002}.tar", {}, "3 of 3 shards are not there: .*none-0000.tar"),
        ("a-{0..2}.tar", {}, "2 of 3 shards are not there: .*a-1.tar, .*a-2.tar"),
        ("{2..0}.tar", {}, r"must count upwards, got \{2\.\.0\}"),
        ("none*.tar", {}, "no shard is there: .*none"),
        ("{split}-9.tar", {}, "no shard of the split train"),
        ("empty", {}, "no .tar file is below"),
        (".", {"lable": "cls"}, r"data\.args\.lable: unknown key 'lable' \(did you mean 'label'"),
        (".", {"label": "json:kind"}, "4 of 4 samples lack a file"),
        (".", {"label": "txt:x"}, "lack a file"),
        (".", {"classes": 1}, r"a-0\.tar, 0001: 2 samples are of no class, the first 1"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, name: str, args: dict[str, Any], says: str):
    write(tmp_path / "a-0.tar", numbered(0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StillhouseError, match=says):
        opened(str(tmp_path / name), **args)


def test_a_shard_that_says_no_split_among_others_is_refused(tmp_path: Path):
    write(tmp_path / "train-0.tar", numbered(0))
    write(tmp_path / "more.tar", numbered(4))
    with pytest.raises(StillhouseError, match=r"more\.tar says no split"):
        find_shards(tmp_path)


@pytest.mark.parametrize("text", ["", "-1", "a", "1.0", "99999999999999999999"])
def test_a_class_that_is_no_number_is_refused_by_its_place(text: str, tmp_path: Path):
    write(tmp_path / "train-0.tar", {**numbered(0), "0004.png": picture(9), "0004.cls": text.encode()})
    with pytest.raises(StillhouseError, match=r"train-0\.tar, 0004: a \.cls must hold a class's number from 0 on"):
        opened(f"{tmp_path / 'train-0.tar'}")


def test_texts_are_names_also_of_digits(tmp_path: Path):
    files = {
        f"{k:04d}.{end}": content
        for k, text in enumerate(["1950", "7", "007"] * 8)
        for end, content in (("png", picture(k)), ("txt", text.encode()))
    }
    write(tmp_path / "train-0.tar", files)
    source = opened(f"{tmp_path / 'train-0.tar'}", label="txt")
    assert source.class_names == ("007", "1950", "7")
    assert source.labels.tolist() == [1, 2, 0] * 8


def test_shards_of_a_split_are_found_once_however_it_is_spelled(tmp_path: Path):
    write(tmp_path / "train-0.tar", numbered(0))
    write(tmp_path / "valid-0.tar", numbered(8))
    found = find_shards(tmp_path / "{split}*.tar")
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["train-0.tar"],
        "val": ["valid-0.tar"],
    }


def test_other_labels_of_the_same_size_are_other_data(tmp_path: Path):
    stamps = set()
    for number in (1, 2):
        files = {f"{k:04d}.png": picture(k) for k in range(50)} | {
            f"{k:04d}.json": json.dumps([number + k % 3, 5]).encode() for k in range(50)
        }
        write(tmp_path / "train-0.tar", files)
        stamps.add(opened(f"{tmp_path / 'train-0.tar'}", target="vector").stamp)
    assert len(stamps) == 2


def test_a_range_may_have_wildcards_behind_it(tmp_path: Path):
    for k in range(2):
        for name in ("a", "b"):
            write(tmp_path / f"x-{k}-{name}.tar", numbered(4 * k))
    found = find_shards(tmp_path / "x-{0..1}-*.tar")["train"]
    assert [path.name for path in found] == ["x-0-a.tar", "x-0-b.tar", "x-1-a.tar", "x-1-b.tar"]
    with pytest.raises(StillhouseError, match=r"1 of 3 shards are not there: .*x-2-\*\.tar"):
        find_shards(tmp_path / "x-{0..2}-*.tar")
