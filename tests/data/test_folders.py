"""Folders of images: splits, channels, the fingerprint, and what is said when something is wrong with them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.loading import fault_of, faults_of, ids_of, load

from stillhouse.data import DataSpec, file_source, load_data
from stillhouse.data.images import decode
from stillhouse.data.makers import AsGiven
from stillhouse.errors import StillhouseError, StillhouseWarning


def image(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def folder(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), n: int = 4, **options: Any) -> Path:
    for split in splits:
        for label in ("bee", "ant"):
            for k in range(n):
                image(root / split / label / f"{k}.png", seed=k, **options)
    return root


def test_a_folder_with_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", ("Train", "VALID", "test"))
    image(root / "Train" / "ant" / "deep" / "er.JPG")
    (root / "Train" / "ant" / "notes.txt").write_text("not an image")
    with pytest.warns(StillhouseWarning, match=r"left out by their suffix: 1 \.txt"):
        data = load("folder:set", base=tmp_path, batch_size=3, normalize="none")
    assert data.info.class_names == ("ant", "bee")
    assert data.info.sizes == {"train": 9, "val": 8, "test": 8}
    assert data.info.input_shape == (3, 4, 6)
    ids = [ids_of(data, split) for split in data.splits]
    assert [i for part in ids for i in part] == list(range(25))  # train first, no id twice
    batch = next(iter(data.evaluation("val")))
    expected = np.asarray(Image.open(root / "VALID" / "ant" / "0.png")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch.input[0], expected, atol=1e-7)
    assert batch.target.tolist() == [0, 0, 0]


def test_a_folder_without_splits_and_one_without_val(tmp_path: Path) -> None:
    folder(tmp_path / "whole", ("",), n=20)
    data = load(f"folder:{tmp_path / 'whole'}")
    assert data.info.sizes == {"train": 32, "val": 4, "test": 4}
    assert load(f"folder:{tmp_path / 'whole'}", val_fraction=0.25).info.sizes == {"train": 20, "val": 10, "test": 10}
    folder(tmp_path / "two", ("train", "test"), n=10)
    other = load(f"folder:{tmp_path / 'two'}")
    assert other.info.sizes == {"train": 18, "val": 2, "test": 20}
    assert load(f"folder:{tmp_path / 'two'}", seed=9).evaluation("val").keys.ids.tolist() == ids_of(other, "val")  # type: ignore[attr-defined]
    # Classes may be called like splits, when images lie directly in them.
    for label in ("train", "bus"):
        image(tmp_path / "vehicles" / label / "a.png")
    assert load(f"folder:{tmp_path / 'vehicles'}", val_fraction=0.0).info.class_names == ("bus", "train")


@pytest.mark.parametrize("options", [{}, {"channels": 1}, {"size": (8, 10), "channels": 3}, {"size": 5}])
def test_a_folder_read_at_once_and_piece_by_piece_is_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    root = folder(tmp_path, n=6)
    kept, read = (load(f"folder:{root}", cache=c, **options) for c in ("memory", "none"))
    for a, b in zip(kept.evaluation("val"), read.evaluation("val"), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    channels, size = options.get("channels", 3), options.get("size", (4, 6))
    assert kept.info.input_shape == (channels, *((size, size) if isinstance(size, int) else size))
    assert kept.info == read.info


@pytest.mark.parametrize("task", [None, AsGiven()])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache": "none"},
        {"cache": "none", "crop": 3},
        {"cache": "none", "size": 5, "transforms": ({"use": "RandomHorizontalFlip"},)},
        {"cache": "none", "per_class": 2},
        {"cache": "none", "skip_bad": True},
    ],
)
def test_no_image_is_read_twice_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], task: Any
) -> None:
    read: list[Path] = []

    def count(path: Path, *rest: Any) -> torch.Tensor:
        read.append(path)
        return decode(path, *rest)

    monkeypatch.setattr(file_source, "decode", count)
    name = f"folder:{folder(tmp_path, n=9)}"
    data = load_data(DataSpec(name=name, normalize="data", **options), task, seed=0)
    most = max(map(read.count, read))
    assert most == (2 if "skip_bad" in options else 1)  # skip_bad goes over all of them first, and keeps none here
    assert len(set(read)) == sum(data.info.sizes.values()) or "per_class" in options
    seen = data._samples.seen
    assert seen is None


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    grey = folder(tmp_path / "grey", mode="L")
    assert load(f"folder:{grey}").info.input_shape == (1, 4, 6)
    mixed = folder(tmp_path / "mixed")
    image(mixed / "train" / "ant" / "0.png", mode="L")
    data = load(f"folder:{mixed}", normalize="none")
    assert data.info.input_shape == (3, 4, 6)
    first = data.example(1).input[0]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", n=5)
    name = f"folder:{root}"
    first = load(name).info.fingerprint
    assert load(name, batch_size=2, workers=1, cache="none", eval_batch_size=3).info.fingerprint == first
    changed: list[dict[str, Any]] = [
        {"size": 9},
        {"channels": 1},
        {"normalize": "none"},
        {"per_class": 2},
        {"transforms": ({"use": "RandomHorizontalFlip"},)},
    ]
    others = {load(name, **options).info.fingerprint for options in changed}
    assert len(others) == len(changed)
    assert first not in others
    root.rename(tmp_path / "b")
    moved = f"folder:{tmp_path / 'b'}"
    assert load(moved).info.fingerprint == first
    path = tmp_path / "b" / "test" / "ant" / "3.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(moved).info.fingerprint == first  # a copy has other times
    image(path, seed=99)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(moved).info.fingerprint != first


def test_faults_of_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    assert "folder not found" in fault_of(f"folder:{tmp_path / 'sett'}")
    assert "did you mean 'set'?" in fault_of(f"folder:{tmp_path / 'sett'}")
    (root / "train" / "cow").mkdir()
    assert f"{root / 'train' / 'cow'}: this class folder holds no images" in fault_of(f"folder:{root}")
    (root / "train" / "cow").rmdir()
    image(root / "val" / "ants" / "x.png")
    assert fault_of(f"folder:{root}").startswith(
        f"{root / 'val' / 'ants'}: this class is not in the training split (did you mean 'ant'"
    )
    (tmp_path / "empty").mkdir()
    assert "has no class folders" in fault_of(f"folder:{tmp_path / 'empty'}")
    (root / "val" / "ants" / "x.png").unlink()
    (root / "val" / "ants").rmdir()
    for path in (root / "val").rglob("*.png"):
        path.unlink()
    assert f"data.name: the split 'val' is empty: no images in {root / 'val'}" in fault_of(f"folder:{root}")
    assert "data.args.path: folder:" in fault_of(f"folder:{root}", args={"path": 1})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_bad_image_is_named(tmp_path: Path, workers: int, content: bytes | None) -> None:
    root = folder(tmp_path, n=5, size=(64, 64), mode="L")
    bad = root / "test" / "bee" / "2.png"
    whole = bad.read_bytes()
    data = load(f"folder:{root}", workers=workers, cache="none")
    bad.write_bytes(whole[:1500] if content is None else content)
    for cache in ("auto", "none"):
        text = fault_of(f"folder:{root}", workers=workers, cache=cache)
        assert text.startswith(f"{bad}: this image cannot be read: ")
    with pytest.raises(StillhouseError, match="this image cannot be read") as caught:
        list(data.evaluation("test"))
    assert caught.value.faults[0].where == str(bad)
    data.close()


def test_images_of_two_sizes_name_both(tmp_path: Path) -> None:
    root = folder(tmp_path)
    odd = image(root / "val" / "bee" / "odd.png", size=(9, 7))
    text = fault_of(f"folder:{root}")
    assert text == (
        f"{odd}: the input must have the shape (3, 4, 6) of {root / 'train' / 'ant' / '0.png'}, got (3, 7, 9) "
        "(set size = [4, 6], or a crop, in [data])"
    )
    assert load(f"folder:{root}", size=(4, 6)).info.input_shape == (3, 4, 6)


@pytest.mark.parametrize("options", [{}, {"skip_bad": True, "cache": "none"}, {"limit": 4}, {"workers": 2}], ids=str)
def test_the_odd_image_is_named_where_it_is_the_first(tmp_path: Path, options: dict[str, Any]) -> None:
    root = folder(tmp_path)
    odd = image(root / "train" / "ant" / "0.png", size=(9, 7))
    (text,) = faults_of(f"folder:{root}", **options)
    named, other = re.fullmatch(
        r"(.*): the input must have the shape \(3, 4, 6\) of (.*), got \(3, 7, 9\) \(set size = \[4, 6\], or a crop, in \[data\]\)",
        text,
    ).groups()  # type: ignore[union-attr]  # it matches
    assert named == str(odd)
    assert Image.open(other).size == (6, 4)
    image(root / "val" / "bee" / "other.png", size=(5, 5))  # a third size
    if "limit" not in options:
        assert [
            fault.partition(": the input must have the shape ")[0] for fault in faults_of(f"folder:{root}", **options)
        ] == [
            str(odd),
            str(root / "val" / "bee" / "other.png"),
        ]
