"""Accents in one character or in two: a Mac's names and other systems' are the same names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from support.dense_files import MASKS, load, masked, save

from stillhouse.errors import StillhouseError

NAMES = ["café", "Übung", "plain"]


def images(root: Path, form: str, names: list[str] = NAMES) -> None:
    for number, name in enumerate(names):
        for k in range(4):
            path = root / unicodedata.normalize(form, name) / f"{k}.png"
            save(path, np.full((6, 6), 40 * number + k, dtype=np.uint8))


def test_a_split_from_a_mac_has_the_same_classes(tmp_path: Path) -> None:
    images(tmp_path / "train", "NFD")
    images(tmp_path / "val", "NFC")
    info = load(f"folder:{tmp_path}").info
    assert info.class_names == tuple(sorted(NAMES))
    assert info.sizes == {"train": 12, "val": 12}


def test_one_class_in_both_forms_is_refused(tmp_path: Path) -> None:
    images(tmp_path / "train", "NFD")
    images(tmp_path / "train", "NFC", ["café"])
    if len(list((tmp_path / "train").iterdir())) == 3:
        pytest.skip("this file system has one form of a name")
    with pytest.raises(StillhouseError, match="two folders for the class 'café'"):
        load(f"folder:{tmp_path}")


def test_images_and_masks_are_paired_whatever_the_form(tmp_path: Path) -> None:
    name = masked(tmp_path)
    for folder, form in (("train", "NFD"), ("trainannot", "NFC")):
        for path in (tmp_path / folder).iterdir():
            path.rename(path.with_name(unicodedata.normalize(form, f"é{path.name}")))
    assert load(name, args=MASKS).info.sizes["train"] == 6


def test_a_name_of_two_lines_is_shown_in_one_and_is_no_class(tmp_path: Path) -> None:
    images(tmp_path / "train", "NFC", ["a\nerror: b", "c"])
    with pytest.raises(StillhouseError) as caught:
        load(f"folder:{tmp_path}")
    assert (
        str(caught.value)
        == rf"{tmp_path}/train/a\nerror: b: a class's name must be UTF-8, in one line (rename its folder)"
    )
