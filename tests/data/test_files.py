"""One walk over files: what is listed, what is left out and said, what a link may do; and the hash of their content."""

from __future__ import annotations

import os
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dense_files import MASKS, load, masked, save, scene

from stillhouse.data import files as files_module
from stillhouse.data.files import Walk, hash_contents, hash_listing, show_name
from stillhouse.errors import StillhouseError, StillhouseWarning


def fill(root: Path, classes: tuple[str, ...] = ("a", "b"), splits: tuple[str, ...] = ("train", "val", "test")) -> str:
    """A folder of generated images, 6 a class and split; the data's name."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for k in range(6):
                save(root / split / name / f"{k}.png", scene(100 * s + 10 * c + k)[0])
    return f"folder:{root}"


def said_by(name: str, **options: Any) -> tuple[dict[str, int], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StillhouseWarning)
        data = load(name, **options)
    return data.info.sizes, [str(w.message) for w in caught if w.category is StillhouseWarning]


# --- what is left out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [".", "train", "./train/", "../{name}/train"])
def test_paths_are_told_from_the_root_on_however_it_is_named(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    place = Path(root.format(name=tmp_path.name))
    files = Walk(place).list_files(place)
    assert len(files) == (36 if root == "." else 12)
    assert all((place / file.path).is_file() for file in files)


def test_hidden_folders_multiply_nothing(tmp_path: Path):
    name = fill(tmp_path)
    shutil.copytree(tmp_path / "train" / "a", tmp_path / "train" / "a" / ".ipynb_checkpoints")
    shutil.copytree(tmp_path / "train" / "a", tmp_path / "train" / ".a")
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / "._0.png")
    assert said_by(name) == ({"train": 12, "val": 12, "test": 12}, [])
    pairs = masked(tmp_path / "pairs")
    shutil.copytree(tmp_path / "pairs" / "train", tmp_path / "pairs" / "train" / ".ipynb_checkpoints")
    args = {**MASKS, "images": "{split}/**/*.png", "labels": "{split}annot/**/*.png"}
    assert said_by(pairs, args=args) == ({"train": 6, "val": 6, "test": 6}, [])


@pytest.mark.parametrize(("at", "to"), [("train/a/up", ".."), ("train/a/here", "."), ("train/a/deep/root", "../../..")])
def test_a_link_to_a_folder_that_holds_it_is_left_out(tmp_path: Path, at: str, to: str):
    name = fill(tmp_path / "set")
    link = tmp_path / "set" / at
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(to)
    sizes, said = said_by(name)
    assert sizes == {"train": 12, "val": 12, "test": 12}
    assert said == [f"{tmp_path / 'set'}: left out, links to a folder that holds them: {at}"]


def test_a_link_to_what_lies_above_the_set_and_two_that_lead_to_each_other(tmp_path: Path):
    name = fill(tmp_path / "home" / "set")
    (tmp_path / "home" / "set" / "train" / "a" / "all").symlink_to(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    (tmp_path / "x" / "there").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "back").symlink_to(tmp_path / "x")
    (tmp_path / "home" / "set" / "train" / "b" / "x").symlink_to(tmp_path / "x")
    sizes, (said,) = said_by(name)
    assert sizes["train"] == 12
    assert said.endswith("left out, links to a folder that holds them: train/a/all, train/b/x/there/back")


def test_links_to_other_folders_are_followed_and_what_is_there_twice_is_said(tmp_path: Path):
    name = fill(tmp_path, splits=("train", "test"))
    (tmp_path / "val").symlink_to("test")
    sizes, (said,) = said_by(name)
    assert sizes == {"train": 12, "val": 12, "test": 12}
    assert said == (
        f"{tmp_path}: 12 files are there more than once, by links: test/a/0.png is val/a/0.png, "
        "test/a/1.png is val/a/1.png, test/a/2.png is val/a/2.png and 9 more"
    )


def test_what_is_left_out_is_counted_by_suffix(tmp_path: Path):
    name = fill(tmp_path)
    image = (tmp_path / "train" / "a" / "0.png").read_bytes()
    for file in ("x.heic", "y.HEIC", "list.txt", "plain"):
        (tmp_path / "train" / "a" / file).write_bytes(image)
    (tmp_path / "val" / "b" / "z.heic").write_bytes(image)
    (tmp_path / "train" / "lost.png").write_bytes(image)
    (tmp_path / "more" / "a").mkdir(parents=True)
    sizes, said = said_by(name)
    assert sizes == {"train": 12, "val": 12, "test": 12}
    assert said[0].startswith(f"{tmp_path}: left out by their suffix: 3 .heic, 1 .txt, 1 no suffix (images are jpg, ")
    assert said[1:] == [
        f"{tmp_path}: left out, folders that are no splits: more",
        f"{tmp_path}: left out, images beside the class folders: train/lost.png",
    ]


@pytest.mark.parametrize("suffix", ["tif", "tiff", "jfif", "gif", "jpe", "ppm", "TIF", "webp", "bmp"])
def test_every_common_kind_of_image_is_read(tmp_path: Path, suffix: str):
    name = fill(tmp_path)
    from PIL import Image

    kind = {"jfif": "JPEG", "jpe": "JPEG"}.get(suffix)
    Image.fromarray(scene(7)[0]).save(tmp_path / "train" / "a" / f"x.{suffix}", format=kind)
    assert said_by(name) == ({"train": 13, "val": 12, "test": 12}, [])


def test_images_of_another_suffix_beside_matched_ones_are_said(tmp_path: Path):
    name = masked(tmp_path)
    save(tmp_path / "train" / "x.tif", scene(1)[0])
    save(tmp_path / "elsewhere" / "y.tif", scene(1)[0])
    (tmp_path / "train" / "notes.txt").write_text("no image")
    sizes, said = said_by(name, args=MASKS)
    assert sizes["train"] == 6
    assert said == [f"{tmp_path}: left out by their suffix: 1 .tif (no pattern matches them)"]


def test_what_is_neither_file_nor_folder_is_never_opened(tmp_path: Path):
    name = fill(tmp_path / "s")
    os.mkfifo(tmp_path / "s" / "train" / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(tmp_path / "s" / "train" / "a" / "socket.png"))
        sizes, (said,) = said_by(name)
    assert sizes["train"] == 12
    assert said.endswith("left out, neither file nor folder: train/a/pipe.png, train/a/socket.png")


# --- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_dangling_links_and_empty_files_are_named_wherever_they_are(tmp_path: Path, cache: str):
    name = fill(tmp_path)
    for k in range(200):
        shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / f"x{k}.png")
    gone, empty, circle = (tmp_path / "train" / "a" / f"{n}.png" for n in ("x71", "x113", "x151"))
    for path in (gone, empty, circle):
        path.unlink()
    gone.symlink_to("nowhere.png")
    circle.symlink_to(circle)
    empty.touch()
    with pytest.raises(StillhouseError) as caught:
        load(name, cache=cache)
    places = {fault.where: fault.what for fault in caught.value.faults}
    assert places[str(gone)] == "this image cannot be read: it is a link to nowhere.png, which is not there"
    assert places[str(empty)].startswith("this image cannot be read: ")
    assert places[str(circle)].startswith("this image cannot be read: ")
    assert len(places) == 3
    with pytest.warns(StillhouseWarning, match="3 of 236 samples are left out"):
        assert load(name, cache=cache, skip_bad=True).info.sizes["train"] == 209


def test_a_mask_that_is_a_dangling_link_is_named(tmp_path: Path):
    name = masked(tmp_path)
    path = tmp_path / "valannot" / "002.png"
    path.unlink()
    path.symlink_to("gone.png")
    with pytest.raises(
        StillhouseError, match=r"002\.png: this image cannot be read: it is a link to gone\.png, which is"
    ):
        load(name, args=MASKS, cache="none")


def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = fill(tmp_path)
    (tmp_path / "train" / "a" / "deep").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(files_module.os, "scandir", scandir)
    with pytest.raises(StillhouseError, match="train/a/deep: this folder cannot be read: Permission denied"):
        load(name)


# --- names that are not UTF-8 --------------------------------------------------------------------------------------


def test_a_class_folder_that_is_not_utf8_is_named(tmp_path: Path):
    name = fill(tmp_path)
    odd = os.fsencode(tmp_path / "train") + b"/caf\xe9"
    Path(os.fsdecode(odd)).mkdir()
    shutil.copy(tmp_path / "train" / "a" / "0.png", odd + b"/0.png")
    with pytest.raises(StillhouseError) as caught:
        load(name)
    (fault,) = caught.value.faults
    assert str(fault) == rf"{tmp_path}/train/caf\xe9: a class's name must be UTF-8, in one line (rename its folder)"
    str(fault).encode()  # whoever prints it can


def test_files_that_are_not_utf8_are_read_and_named(tmp_path: Path):
    name = fill(tmp_path)
    odd = os.fsencode(tmp_path / "train" / "a") + b"/\xff.png"
    shutil.copy(tmp_path / "train" / "a" / "0.png", odd)
    data = load(name)
    assert data.info.sizes["train"] == 13
    Path(os.fsdecode(odd)).write_bytes(b"no image")
    with pytest.raises(StillhouseError, match=r"train/a/\\xff.png: this image cannot be read"):
        load(name)
    assert show_name("plain/ä.png") == "plain/ä.png"


# --- the hash of the content ---------------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_the_same_data_and_another_content_is_not(tmp_path: Path):
    name = fill(tmp_path / "here")
    first = load(name).info.fingerprint
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    there = f"folder:{tmp_path / 'there'}"
    assert load(there, workers=1, cache="none", prefetch=3).info.fingerprint == first
    path = tmp_path / "there" / "test" / "b" / "5.png"
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(
        content[:-13] + bytes([content[-13] ^ 1]) + content[-12:]
    )  # of the same size, and at the same time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_of(tmp_path / "there") != content_of(tmp_path / "here")
    os.utime(tmp_path / "here" / "test" / "b" / "5.png")
    assert load(name).info.fingerprint == first


def content_of(root: Path) -> tuple[bytes, bytes]:
    listed = Walk(root).list_files(root)
    return hash_listing(listed), hash_contents(root, [f.path for f in listed], [f.size for f in listed])


def test_a_run_on_few_labels_hashes_the_names_of_all_and_the_content_of_its_own(tmp_path: Path):
    name = fill(tmp_path)
    options: dict[str, Any] = {"per_class": 2, "subset_seed": 0, "normalize": "none"}
    data = load(name, **options)
    used = {int(i) for split in data.splits for batch in data.evaluation(split) for i in batch.id}
    (other, *_) = sorted(set(range(12)) - used)
    path = tmp_path / "train" / "ab"[other // 6] / f"{other % 6}.png"
    size = path.stat().st_size
    path.write_bytes(bytes(size))  # as a pack of the files in use leaves it
    assert load(name, **options).info.fingerprint == data.info.fingerprint
    path.write_bytes(bytes(size + 1))
    assert load(name, **options).info.fingerprint != data.info.fingerprint


def test_of_a_large_set_some_files_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files_module, "_WHOLE", 1000)
    monkeypatch.setattr(files_module, "_SAMPLED", 3)
    monkeypatch.setattr(files_module, "_PART", 20)
    for k in range(5):
        (tmp_path / f"{k}").write_bytes(np.random.default_rng(k).bytes(300))

    def hash_after(file: str, place: int) -> Any:
        path = tmp_path / file
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        try:
            return content_of(tmp_path)
        finally:
            content[place] ^= 1
            path.write_bytes(content)

    first = content_of(tmp_path)
    assert all(hash_after(file, place) != first for file in ("0", "2", "4") for place in (0, 19, 280, 299))
    assert hash_after("2", 100) == first  # neither among the first bytes nor among the last
    assert hash_after("1", 0) == first
    (tmp_path / "1").write_bytes(b"shorter")
    assert content_of(tmp_path) != first
