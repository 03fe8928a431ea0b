"""Suffixes of paired files in either case: cameras write .JPG, and such files are no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.dense_files import MASKS, load, masked

from stillhouse.errors import StillhouseError


def rename(folder: Path, suffix: str, every: int = 2) -> None:
    for path in sorted(folder.iterdir())[::every]:
        path.rename(path.with_suffix(suffix))


def test_files_with_an_upper_case_suffix_are_matched(tmp_path: Path) -> None:
    name = masked(tmp_path)
    rename(tmp_path / "train", ".PNG")
    rename(tmp_path / "trainannot", ".Png", every=3)
    assert load(name, args=MASKS).info.sizes == {"train": 6, "val": 6, "test": 6}


def test_images_alone_with_an_upper_case_suffix_are_read_too(tmp_path: Path) -> None:
    masked(tmp_path)
    rename(tmp_path / "train", ".PNG")
    args: dict[str, Any] = {"images": "{split}/*.png"}
    assert load(f"photos:{tmp_path}", args=args).info.sizes["train"] == 6


def test_one_name_with_its_suffix_in_both_cases_is_refused(tmp_path: Path) -> None:
    name = masked(tmp_path)
    twin = sorted((tmp_path / "train").iterdir())[0]
    (twin.parent / f"{twin.stem}.PNG").write_bytes(twin.read_bytes())
    with pytest.raises(StillhouseError, match=r"train/000\.PNG and train/000\.png differ in their suffix's case"):
        load(name, args=MASKS)
