"""Data sets of the library datasets: rows with features, on disk or from Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse.data import DatasetSource, DataSpec, load_data
from stillhouse.errors import StillhouseError


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("datasets")


def make_rows(library: Any, n: int = 12, **more: Any) -> Any:
    columns: dict[str, list[Any]] = {
        "image": [Image.fromarray(np.full((6, 6), 20 * k, dtype=np.uint8)) for k in range(n)],
        "id": list(range(n)),
        "label": [k % 2 for k in range(n)],
    }
    features = {"image": library.Image(), "id": library.Value("int64"), "label": library.ClassLabel(names=["a", "b"])}
    return library.Dataset.from_dict(
        columns | {name: column for name, (column, _) in more.items()},
        features=library.Features(features | {name: feature for name, (_, feature) in more.items()}),
    )


def test_a_folder_of_rows_knows_its_image_and_its_classes(library: Any, tmp_path: Path):
    splits = library.DatasetDict({"train": make_rows(library), "validation": make_rows(library, 4)})
    splits.save_to_disk(str(tmp_path / "rows"))
    data = load_data(DataSpec(name="hf:rows", normalize="none", batch_size=4), seed=0, base=tmp_path)
    assert data.info.class_names == ("a", "b")
    assert data.info.sizes == {"train": 12, "val": 4}
    assert data.info.input_shape == (1, 6, 6)
    batch = next(iter(data.evaluation("val")))
    assert batch.target.tolist() == [0, 1, 0, 1]
    assert (batch.input[:, 0, 0, 0] * 255).round().tolist() == [0, 20, 40, 60]


def test_labels_are_read_from_their_column_and_no_image_is_decoded(library: Any):
    source = DatasetSource(make_rows(library), "rows", 0.25)
    assert source.pure
    assert source.labels.tolist() == [0, 1] * 6
    drawn = make_rows(library).with_transform(lambda rows: rows)
    assert not DatasetSource(drawn, "rows", 0.25).pure


def test_where_columns_are_several_fields_say_which(library: Any):
    rows = make_rows(library, coarse=([0] * 12, library.ClassLabel(names=["x"])))
    with pytest.raises(StillhouseError, match="got a dict of 'image', 'id', 'label', 'coarse'"):
        DatasetSource(rows, "rows", 0.25)
    source = DatasetSource(rows, "rows", 0.25, described={"fields": {"input": "image", "target": "coarse"}})
    assert source.class_names == ("x",)


def test_what_is_no_such_folder_is_refused(library: Any, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("hf:none", "folder not found: .*none .*nothing is downloaded"),
        ("hf:empty", "empty cannot be read: .*save_to_disk wrote"),
        ("hf", "must be hf:PATH, got 'hf'"),
    ):
        with pytest.raises(StillhouseError, match=says):
            load_data(DataSpec(name=name), seed=0, base=tmp_path)
    with pytest.raises(StillhouseError, match=r"data\.args\.split: hf:rows takes fields, target"):
        load_data(DataSpec(name="hf:rows", args={"split": "x"}), seed=0, base=tmp_path)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StillhouseError, match=r'needs the library datasets .*pip install "stillhouse\[datasets\]"'):
        load_data(DataSpec(name="hf:rows"), seed=0, base=tmp_path)
