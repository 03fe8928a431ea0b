"""What is said of pairs when something is wrong: arguments, missing partners, samples that cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dense_files import MASKS, load, masked, save, scene

from stillhouse.data import Data
from stillhouse.errors import StillhouseError, StillhouseWarning


def fault_of(name: str, **options: Any) -> str:
    return "\n".join(faults_of(name, **options))


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def ids_of(data: Data, split: str) -> list[int]:
    return [int(i) for batch in data.evaluation(split) for i in batch.id]


def test_faults_of_the_arguments(tmp_path: Path) -> None:
    name = masked(tmp_path)
    assert faults_of(name, args={"image": "*.png", "target": "masks"}) == [
        "data.args.image: unknown key 'image' (did you mean 'images'?)",
        'data.args.images: missing key (images = "{split}/*.jpg")',
        'data.args.labels: missing key (labels = "{split}annot/*.png")',
        "data.args.target: must be mask, depth or image, got 'masks'",
    ]
    without = {k: v for k, v in MASKS.items() if k != "classes"}
    assert "data.args.classes: mask targets need classes" in fault_of(name, args=without)
    assert "data.args.scale: needs a target of kind depth, got mask" in fault_of(name, args={**MASKS, "scale": 0.1})
    assert "data.args.ignore: must not be a class index, got 2" in fault_of(name, args={**MASKS, "ignore": 2})
    assert "data.args.ignore: must be a whole number, got '11'" in fault_of(name, args={**MASKS, "ignore": "11"})
    assert "'{split}/*.jpg' matches no file below" in fault_of(name, args={**MASKS, "images": "{split}/*.jpg"})
    assert "folder not found" in fault_of(f"pairs:{tmp_path / 'nowhere'}", args=MASKS)
    assert "must be a pattern with a *, got 'x.png'" in fault_of(name, args={**MASKS, "labels": "x.png"})
    assert "needs a split train, got val" in fault_of(
        name, args={**MASKS, "images": "{split}/000.p*g"} | _only_val(tmp_path)
    )


def _only_val(root: Path) -> dict[str, str]:
    save(root / "one" / "val" / "a.png", scene(0)[0])
    return {"images": "one/{split}/*.png", "labels": "one/{split}/*.png"}


def test_missing_partners_are_named_and_counted(tmp_path: Path) -> None:
    name = masked(tmp_path)
    for k in (1, 4):
        (tmp_path / "trainannot" / f"00{k}.png").unlink()
    (tmp_path / "val" / "005.png").unlink()
    assert faults_of(name, args=MASKS) == [
        "data.args.labels: 2 of 6 train images have no label: train/001.png, train/004.png "
        "(add them, or leave these out with --skip-bad)",
        "data.args.images: 1 of 6 val labels have no image: valannot/005.png (add them, or leave these out with --skip-bad)",
    ]
    with pytest.warns(StillhouseWarning, match=r"2 of 6 train images have no label: train/001.png"):
        data = load(name, args=MASKS, skip_bad=True)
    assert data.info.sizes == {"train": 4, "val": 5, "test": 6}
    none = {**MASKS, "labels": "{split}annot/0*.png"}
    assert "no image has a label (the wildcards" in fault_of(name, args=none)


def spoil(root: Path) -> list[str]:
    """Four bad samples, among them the first; how each one's fault begins."""
    path = root / "train" / "000.png"
    path.write_bytes(path.read_bytes()[:120])
    (root / "train" / "002.png").write_text("not an image")
    save(root / "valannot" / "001.png", scene(1)[1][:, :-1])
    wrong = scene(1)[1].copy()
    wrong[:2, 0] = (7, 200)
    save(root / "testannot" / "003.png", wrong)
    return [
        f"{path}: this image cannot be read: ",
        f"{root / 'train' / '002.png'}: this image cannot be read: ",
        f"{root / 'val' / '001.png'}: the mask {root / 'valannot' / '001.png'} must have its image's size, "
        "12x10 (width x height), got 11x10",
        f"{root / 'testannot' / '003.png'}: mask values must be class indices; 2 pixels are not: 7, 200 "
        "(classes are 0 to 2 and 11 is ignored",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_named_and_counted(tmp_path: Path, workers: int) -> None:
    name = masked(tmp_path)
    said = spoil(tmp_path)
    faults = faults_of(name, args=MASKS, workers=workers)
    assert len(faults) == 4
    assert all(fault.startswith(start) for fault, start in zip(faults, said, strict=True))
    assert "--skip-bad" in faults[-1]
    (tmp_path / "test" / "005.png").write_bytes(b"")
    assert faults_of(name, args=MASKS)[-1].startswith(f"{tmp_path / 'test' / '005.png'}: this image cannot be read: ")


def test_a_bad_sample_that_is_met_in_a_run_says_how_to_go_on_without_it(tmp_path: Path) -> None:
    name = masked(tmp_path)
    data = load(name, args=MASKS, cache="none", workers=0)
    said = spoil(tmp_path)[2:]
    for split, start in zip(("val", "test"), said, strict=True):
        with pytest.raises(StillhouseError) as caught:
            ids_of(data, split)
        (fault,) = caught.value.faults
        assert start in str(fault)
        assert fault.hint.endswith("--skip-bad leaves such samples out")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_skip_bad_leaves_them_out_with_one_warning(tmp_path: Path, cache: str) -> None:
    name = masked(tmp_path)
    spoil(tmp_path)
    with pytest.warns(StillhouseWarning) as caught:
        data = load(name, args=MASKS, skip_bad=True, cache=cache, limit=3, batch_size=2)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("4 of 18 samples are left out: ")
    assert f"{tmp_path / 'train' / '002.png'}: this image cannot be read" in text
    assert data.info.sizes == {"train": 3, "val": 5, "test": 5}
    assert not {0, 2, 7, 15} & {i for split in data.splits for i in ids_of(data, split)}
    whole = set(ids_of(_quiet(name, cache=cache), "train"))
    assert whole == {1, 3, 4, 5}
    assert set(ids_of(data, "train")) < whole
    assert data.info.fingerprint != _quiet(name, cache=cache).info.fingerprint


def _quiet(name: str, **options: Any) -> Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillhouseWarning)
        return load(name, args=MASKS, skip_bad=True, **options)


def test_a_set_without_a_usable_sample_says_so(tmp_path: Path) -> None:
    name = masked(tmp_path, n=3)
    for path in (tmp_path / "val").glob("*.png"):
        path.write_bytes(b"")
    faults = faults_of(name, args=MASKS, skip_bad=True)
    assert faults[0] == "data.skip_bad: no sample of the split 'val' can be used"
    assert "this image cannot be read" in faults[1]
    for path in (tmp_path / "train").glob("*.png"):
        path.write_bytes(b"")
    assert "none of the first 3 training samples can be used" in fault_of(name, args=MASKS, skip_bad=True)


def test_colour_masks_and_deep_ones_are_told_apart(tmp_path: Path) -> None:
    name = masked(tmp_path)
    save(tmp_path / "trainannot" / "001.png", scene(0)[0])
    assert "the mask must have one channel, got mode RGB (index images" in fault_of(name, args=MASKS)
    deep = {**MASKS, "classes": 300, "ignore": 65535}
    for path in tmp_path.glob("*annot/*.png"):
        save(path, np.full((10, 12), 299, dtype=np.uint16))
    assert int(next(load(name, args=deep).training()).target.max()) == 299
