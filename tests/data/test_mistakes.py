"""Mistakes with one's own data that were silent, vague or a traceback: each is said, and what would be right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import recipe
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from stillhouse import Recipe, StillhouseError, StillhouseWarning, prepare, train
from stillhouse.data import DataSpec, load_data

X = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def made(task: str = "classification", **data: Any) -> Recipe:
    tables = recipe(teacher=None, task={"name": task}).to_dict()
    return Recipe.from_dict({**tables, "data": {"name": "given", "batch_size": 8, **data}})


def refused(data: Any, says: str, task: str = "classification", **options: Any) -> None:
    with pytest.raises(StillhouseError, match=says):
        prepare(made(task, **options), data=data, write=False)


def loaders(x: Tensor, y: Tensor, collate: Callable[[Any], Any] | None = None, size: int = 8) -> tuple[Any, Any]:
    loader = DataLoader(TensorDataset(x, y), batch_size=size, collate_fn=collate)
    return loader, loader


def write_table(root: Path, head: str, rows: Iterator[str], n: int = 12) -> None:
    for k in range(n):
        pixels = np.random.default_rng(k).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{k}.png")
    (root / "t.csv").write_text("\n".join([head, *rows]))


def from_table(root: Path, task: str, **args: Any) -> Recipe:
    run = {"name": "t", "epochs": 1, "device": "cpu", "base": str(root)}
    model = {"detection": "detector", "classification": "convnet"}[task]
    student = {"model": f"stillhouse.models:{model}", "args": {"width": 4}}
    data = {"name": "table:t.csv", "args": args, "batch_size": 4, "normalize": "none"}
    return Recipe.from_dict({"run": run, "data": data, "student": student, "task": {"name": task}})


def test_one_class_is_refused_of_tables_data_sets_and_loaders(tmp_path: Path):
    says = "data: classification needs two classes at least, got 1, 'oak' .*of one class nothing can be told apart"
    write_table(tmp_path, "image,label", (f"{k}.png,oak" for k in range(12)))
    with pytest.raises(StillhouseError, match=says):
        prepare(from_table(tmp_path, "classification"), write=False)
    refused(TensorDataset(X, Y * 0), "needs two classes at least, got 1, '0'")
    refused(loaders(X, Y * 0), "needs two classes at least, got 1, '0'")


def test_numbers_that_were_meant_to_be_measured_are_no_classes(tmp_path: Path):
    write_table(tmp_path, "image,label", (f"{k}.png,{k * 0.5}" for k in range(12)))
    says = 'too few samples to hold out .*each of 12 samples is of a class of its own: .* target = "vector"'
    with pytest.raises(StillhouseError, match=says):
        prepare(from_table(tmp_path, "classification"), write=False)


def test_floats_are_numbers_to_learn_without_being_told_so():
    for target in (torch.arange(40.0), torch.arange(40.0)[:, None]):
        result = train(made("regression"), data=TensorDataset(X, target), write=False)
        assert "mae" in result.metrics["val"]
    assert "mae" in train(made("regression"), data=loaders(X, torch.arange(40.0)), write=False).metrics["val"]
    refused(TensorDataset(X, torch.arange(40.0)), "a class is one whole number a sample")


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_one_hot_targets_are_told_of_their_argmax(kind: torch.dtype):
    one_hot = torch.nn.functional.one_hot(Y, 3).to(kind)
    refused(TensorDataset(X, one_hot), "got 'vector' .*of one-hot targets their argmax")


def test_targets_that_are_no_numbers_are_named_by_their_sample():
    wrong = torch.arange(40.0)
    wrong[5] = torch.nan
    refused(TensorDataset(X, wrong), "sample 5: the target's numbers must be finite", "regression")


def test_a_loader_of_lists_of_samples_is_told_what_makes_batches():
    says = r"data\['train'\], batch 0: .* a list of samples.*leave `collate_fn` out"
    refused(loaders(X, Y, list), says, args={"classes": 3})
    refused(loaders(X, Y, list, size=2), says, args={"classes": 3}, batch_size=2)


def test_inputs_of_a_loader_that_are_not_finite_are_named_by_their_batch():
    x = X.clone()
    x[13, 0, 2, 2] = torch.nan
    with pytest.raises(
        StillhouseError, match=r"data\['train'\], batch 1: the inputs must be finite: those of sample 5"
    ):
        train(made(args={"classes": 3}), data=loaders(x, Y), write=False)


def test_channels_that_seem_to_be_last_are_said():
    images, student = torch.rand(40, 6, 7, 3), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(126, 3))
    for data in (TensorDataset(images, Y), loaders(images, Y)):
        with pytest.warns(StillhouseWarning, match=r"inputs have the shape \(6, 7, 3\): models take channels first"):
            prepare(
                made(normalize="none") if isinstance(data, TensorDataset) else made(),
                data=data,
                student=student,
                write=False,
            )


def test_boxes_that_are_none_are_named_by_their_row(tmp_path: Path):
    head = "image,label,x1,y1,x2,y2"
    write_table(tmp_path, head, (f"{k}.png,a,2,2,{'nan' if k == 3 else 20},20" for k in range(12)))
    with pytest.raises(StillhouseError, match="row 5: must be four numbers, got '2', '2', 'nan', '20'"):
        prepare(from_table(tmp_path, "detection", target="boxes"), write=False)
    write_table(tmp_path, head, (f"{k}.png,,,,," for k in range(12)))
    with pytest.raises(StillhouseError, match=r"data\.args\.boxes: none of 12 rows has a box"):
        prepare(from_table(tmp_path, "detection", target="boxes"), write=False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "0 30 20 12 10",
            "3.txt: line 1: x, y, width and height must be shares of the image's, 0 to 1, got '0 30 20 12 10'",
        ),
        ("0 nan 0.5 .2 .2", "3.txt: line 1: must be class, x, y, width, height, got '0 nan 0.5 .2 .2'"),
        ("0 1.5 0.5 .2 .2", "must be shares of the image's"),
    ],
)
def test_a_file_of_boxes_in_another_form_is_named(line: str, says: str, tmp_path: Path):
    write_table(tmp_path, "image,boxes", (f"{k}.png,{k}.txt" for k in range(12)))
    for k in range(12):
        (tmp_path / f"{k}.txt").write_text(line if k == 3 else "0 0.5 0.5 0.3 1.02")
    with pytest.raises(StillhouseError, match=re.escape(says)):
        prepare(from_table(tmp_path, "detection", target="boxes", boxes="boxes"), write=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 99}, "annotation 3: no image 99"),
        ({"bbox": [5, 5, float("nan"), 3]}, "annotation 3: bbox must be x, y, width, height, got [5, 5, nan, 3]"),
    ],
)
def test_an_annotation_of_coco_that_is_none_is_named(change: dict[str, Any], says: str, tmp_path: Path):
    write_table(tmp_path, "", iter(()))
    things = [{"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 15]} for k in range(12)]
    things[3] |= change
    images = [{"id": k, "file_name": f"{k}.png", "height": 24, "width": 32} for k in range(12)]
    told = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(told))
    with pytest.raises(StillhouseError, match=re.escape(says)):
        load_data(DataSpec(name="coco:a.json"), seed=0, base=tmp_path)
