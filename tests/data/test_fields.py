"""Samples that are dicts or longer tuples name their fields; tables have weights and splits by any text."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.loading import Listed
from torch.utils.data import Subset

from stillhouse.data import DatasetSource
from stillhouse.data.catalogue import open_source
from stillhouse.data.sources import SourceRequest
from stillhouse.errors import StillhouseError

Sample = namedtuple("Sample", ["picture", "kind"])
IMAGES = [torch.full((1, 4, 4), 10 * k, dtype=torch.uint8) for k in range(6)]


def opened(items: list[Any], **described: Any) -> DatasetSource:
    return DatasetSource(Listed(items), "mine", 0.0, described=described)


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([{"path": k, "x": IMAGES[k], "y": k % 2} for k in range(6)], {"input": "x", "target": "y"}),
        ([(k, IMAGES[k], "text", k % 2) for k in range(6)], ["", "input", "", "target"]),
        ([(k, IMAGES[k], "text", k % 2) for k in range(6)], {"input": 1, "target": 3}),
        ([Sample(IMAGES[k], k % 2) for k in range(6)], {"input": "picture", "target": "kind"}),
    ],
)
def test_fields_are_named_by_key_or_by_position(items: list[Any], fields: Any):
    source = opened(items, fields=fields)
    assert source.labels.tolist() == [0, 1] * 3
    assert torch.equal(source.pair(4)[0], IMAGES[4])
    gathered = source.gather(np.arange(1, 3), None)
    assert gathered is not None
    assert torch.equal(gathered, torch.stack(IMAGES[1:3]))


def test_without_a_target_there_is_none_and_weights_are_kept_by_sample():
    source = opened([{"x": image, "w": k} for k, image in enumerate(IMAGES)], fields={"input": "x", "weight": "w"})
    assert source.target == "none"
    assert source.weights is not None
    assert source.weights.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_mask_leaves_pixels_out():
    counts = np.ones((4, 4), dtype=bool)
    counts[0] = False
    target = torch.ones(4, 4, dtype=torch.uint8)
    items = [{"x": image, "y": target, "m": counts} for image in IMAGES]
    fields = {"input": "x", "target": "y", "mask": "m"}
    mask = opened(items, fields=fields, classes=2, ignore=255).pair(0)[1]
    assert mask[0].tolist() == [255] * 4
    assert mask[1:].eq(1).all()
    depths = [{**item, "y": target.float()} for item in items]
    depth = opened(depths, fields=fields).pair(0)[1]
    assert depth[0, 0].tolist() == [0.0] * 4
    assert depth[0, 1:].eq(1).all()
    with pytest.raises(StillhouseError, match="needs targets of kind 'mask' with `ignore`, or 'depth'"):
        opened(items, fields=fields, classes=2).pair(0)
    small = [{**item, "m": counts[:2]} for item in items]
    with pytest.raises(StillhouseError, match=r"must have the target's size \(4, 4\), got \(2, 4\)"):
        opened(small, fields=fields, classes=2, ignore=255).pair(0)


@pytest.mark.parametrize(
    ("items", "fields", "says"),
    [
        ([{"x": IMAGES[0], "y": 0}], None, r"got a dict of 'x', 'y' \(args = \{ fields = \{ input"),
        ([(IMAGES[0], 0, 1)], None, r'got 3 values \(args = \{ fields = \["input", "target", ""\]'),
        ([{"x": IMAGES[0], "y": 0}], {"input": "X", "target": "y"}, r"has no field 'X' \(its fields are 'x', 'y'\)"),
        ([(IMAGES[0], 0)], {"input": 0, "target": 2}, "has no field 2: it has 2 values: Tensor, int"),
        ([(IMAGES[0], 0)], {"input": "x"}, "has no field 'x': it has 2 values"),
        ([IMAGES[0]], {"input": 0}, "must be a tuple or a dict to have fields, got Tensor"),
        ([(IMAGES[0], 0)], ["target"], "names no input"),
        ([(IMAGES[0], 0)], ["input", "inputs"], r"unknown role 'inputs' \(did you mean 'input'"),
        ([(IMAGES[0], 0)], ["input", "input"], "names the input twice"),
        ([(IMAGES[0], 0)], {"input": -1}, r"fields\.input: must be a key or a position from 0, got -1"),
        ([(IMAGES[0], 0)], "input", "must be a table or a list, got 'input'"),
        ([(IMAGES[0], 0, "a")], ["input", "target", "weight"], "weight must be a number >= 0, got 'a'"),
    ],
)
def test_wrong_fields_are_named_with_those_there_are(items: list[Any], fields: Any, says: str):
    with pytest.raises(StillhouseError, match=says):
        opened(items, **({} if fields is None else {"fields": fields})).pair(0)


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    def write(text: str, **args: Any) -> Any:
        for k in range(4):
            Image.fromarray(np.full((6, 8), 10 * k, dtype=np.uint8)).save(tmp_path / f"{k}.png")
        (tmp_path / "t.csv").write_text(text)
        return open_source(f"table:{tmp_path / 't.csv'}", SourceRequest(args=args, val_fraction=0.25))

    return write


TEXT = "image,label,fold,w\n" + "".join(f"{k}.png,{'ab'[k % 2]},f{k},{k / 2}\n" for k in range(4))


def test_a_table_has_weights_and_splits_by_any_text(rows: Any):
    source = rows(TEXT, split="fold", splits={"val": ["f1"], "test": ["f3"]}, weight="w")
    assert {name: ids.tolist() for name, ids in source.splits.items()} == {"train": [0, 2], "val": [1], "test": [3]}
    assert source.weights.tolist() == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"split": "fold", "splits": {"val": ["f7"]}}, r"splits\.val: no row has 'f7' \(known: 'f0'"),
        ({"split": "fold", "splits": {"val": ["f1"], "test": ["f1"]}}, r"splits\.test: 'f1' is of val as well"),
        ({"splits": {"val": ["f1"]}}, r"data\.args\.splits: needs the column"),
        ({"split": "fold", "splits": {"vall": ["f1"]}}, r"data\.args\.splits"),
        ({"weight": "label"}, r"data\.args\.weight: .*t\.csv, row 2: label must be a number, got 'a'"),
        ({"weight": "weights"}, r"data\.args\.weight"),
    ],
)
def test_what_is_wrong_with_them_is_named(rows: Any, args: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        rows(TEXT, **args)


def test_a_negative_weight_is_named_by_its_row(rows: Any):
    with pytest.raises(StillhouseError, match=r"data\.args\.weight: .*t\.csv, row 3: must be >= 0, got -1"):
        rows("image,label,w\n0.png,a,1\n1.png,b,-1\n", weight="w")


def test_a_subset_has_the_classes_of_its_whole():
    whole = Listed([(IMAGES[k], k % 2) for k in range(6)], classes=["a", "b", "c"])
    assert DatasetSource(Subset(whole, range(4)), "mine", 0.0).class_names == ("a", "b", "c")
