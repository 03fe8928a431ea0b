"""Masks whose classes are stored as other values than 0, 1, 2, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dense_files import load, save

from stillhouse.data import Data
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import StillhouseError


def stored(root: Path, *values: int, dtype: Any = np.uint8) -> str:
    generator = np.random.default_rng(0)
    for k in range(20):
        mask = generator.choice(np.array(values), (6, 8)).astype(dtype)
        save(root / "i" / f"{k:02}.png", generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        save(root / "m" / f"{k:02}.png", mask)
    return f"pairs:{root}"


def read(name: str, **args: Any) -> Data:
    patterns = {"images": "i/*.png", "labels": "m/*.png", "target": "mask"}
    return load(name, args={**patterns, **args}, batch_size=16, normalize="none")


def first_mask(root: Path) -> Any:
    from PIL import Image

    return np.asarray(Image.open(root / "m" / "00.png")).astype(np.int64)


@pytest.mark.parametrize(
    ("values", "dtype"), [([0, 255], np.uint8), ([200, 7, 31], np.uint8), ([1000, 1, 40000], np.uint16)]
)
def test_stored_values_become_class_indices(tmp_path: Path, values: list[int], dtype: Any):
    data = read(stored(tmp_path, *values, dtype=dtype), classes=len(values), values=values)
    batch = data._samples.read_pair(0)[1].numpy()
    assert np.array_equal(batch, np.vectorize(values.index)(first_mask(tmp_path)))


def test_an_ignored_value_becomes_255_beside_them(tmp_path: Path):
    name = stored(tmp_path, 0, 1, 2)
    data = read(name, classes=["road", "car"], values=[1, 2], ignore=0)
    assert data.info.ignore == 255
    mask = data._samples.read_pair(0)[1].numpy()
    assert np.array_equal(mask, np.array([255, 0, 1])[first_mask(tmp_path)])
    many = TargetSpec(target="mask", classes=300, values=tuple(range(10, 310)), ignore=3)
    assert many.ignored == -1
    assert many.read(np.array([[3, 10, 309]])).tolist() == [[-1, 0, 299]]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"classes": 2, "values": [0]}, "must be a value for each of 2 classes, all of them distinct, got [0]"),
        ({"classes": 2, "values": [0, 0]}, "must be a value for each of 2 classes, all of them distinct, got [0, 0]"),
        ({"classes": 2, "values": [0, 9], "ignore": 9}, "ignore: must not be one of `values`, got 9"),
        ({"classes": 2, "values": [0, 9]}, "must be among `values`; 26 pixels are not: 255 (values = [0, 9])"),
        (
            {"classes": 2},
            "(classes are 0 to 1; values = [0, 255], say, if the classes are stored as these, in this order;",
        ),
        ({"classes": 3}, "(classes are 0 to 2; `values` lists the value that is stored for each class;"),
    ],
)
def test_faults_of_values(tmp_path: Path, args: dict[str, Any], says: str):
    with pytest.raises(StillhouseError) as caught:
        read(stored(tmp_path, 0, 255), **args)
    assert says in str(caught.value)
    with pytest.raises(StillhouseError, match="values: needs a target of kind mask, got depth"):
        TargetSpec(target="depth", values=(1,))
