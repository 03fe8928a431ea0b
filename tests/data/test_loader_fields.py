"""Fields of batches that a loader gives: weights of samples, masks of targets, and what these cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import recipe, same_state, tiny_data
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.config.task import TaskSpec
from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.given import describe_given, read_given
from stillhouse.tasks.builder import build_task
from stillhouse.training.explanation import describe, render_text

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
THREE = {"fields": ["input", "target", "weight"], "classes": 3}


class OneBatch:
    """A loader of one batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield self.batch


def opened(batch: Any, task: str = "classification", **args: Any) -> Data:
    given = read_given({"train": OneBatch(batch), "val": OneBatch(batch)})
    return load_data(
        describe_given(DataSpec(name="", args=args), given), build_task(TaskSpec(name=task)), seed=0, given=given
    )


def loaders(weights: Tensor, collate: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    sets = tiny_data()
    ones = {name: torch.ones(len(part)) for name, part in sets.items()} | {"train": weights}
    return {
        name: DataLoader(
            TensorDataset(*part.tensors, ones[name]), batch_size=8, collate_fn=collate, shuffle=name == "train"
        )
        for name, part in sets.items()
    }


def made(lr: float, args: dict[str, Any], **changes: Any) -> Recipe:
    tables = recipe(teacher=None, optimizer={"name": "sgd", "lr": lr}, **changes).to_dict()
    return Recipe.from_dict({**tables, "data": {"args": args, "name": "given"}})


def as_dict(samples: list[Any]) -> dict[str, Any]:
    x, y, w = map(torch.stack, zip(*samples, strict=True))
    return {"pixel_values": x, "labels": y, "importance": w[:, None]}


NAMED = {"fields": {"input": "pixel_values", "target": "labels", "weight": "importance"}, "classes": 3}


@pytest.mark.parametrize(("collate", "args"), [(None, THREE), (as_dict, NAMED)])
def test_weights_of_a_batch_count_as_those_of_a_table(collate: Any, args: dict[str, Any]):
    double, plain = (
        train(made(lr, args), data=loaders(torch.full((24,), weight), collate), write=False)
        for lr, weight in ((0.1, 2.0), (0.2, 1.0))
    )
    for own, other in zip(double.student.parameters(), plain.student.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert double.history[0]["loss"] == pytest.approx(plain.history[0]["loss"])


PLAIN = {"model": "support.processes:PlainNet", "args": {"width": 4}}
"""Without batch statistics and dropout, which parts of a batch have of their own."""


def test_weights_follow_their_samples_into_the_parts_of_a_batch():
    weights = torch.linspace(0, 3, 24)
    whole, parts = (
        train(made(0.1, THREE, run__accumulate=n, student=PLAIN), data=loaders(weights), write=False).student
        for n in (1, 2)
    )
    for own, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-5)


def test_a_sample_of_weight_0_teaches_nothing():
    weights = torch.ones(24)
    weights[::2] = 0.0
    sets, students = loaders(weights), []
    for shift in (0, 1):
        images, labels, own = sets["train"].dataset.tensors
        told = torch.where(own > 0, labels, (labels + shift) % 3)
        data = {**sets, "train": DataLoader(TensorDataset(images, told, own), batch_size=8)}
        students.append(train(made(0.1, THREE), data=data, write=False).student)
    assert same_state(students[0].state_dict(), students[1].state_dict())


def test_an_explanation_says_that_samples_are_weighed():
    training = prepare(made(0.1, THREE), data=loaders(torch.full((24,), 0.5)), write=False)
    assert "weights of samples from 0.5 to 0.5" in render_text(describe(training))
    training.close()


def test_what_a_mask_leaves_out_has_no_label():
    counts = torch.ones(4, 8, 8, dtype=torch.bool)
    counts[:, :4] = False
    fields = {"fields": {"input": "x", "target": "y", "mask": "valid"}}
    batch = {"x": X, "y": torch.ones(4, 8, 8, dtype=torch.long), "valid": counts}
    seen = opened(batch, "segmentation", **fields, classes=2, ignore=255).example(4).target
    assert (seen[:, :4] == 255).all()
    assert (seen[:, 4:] == 1).all()
    depths = opened({**batch, "y": torch.full((4, 1, 8, 8), 2.5)}, "depth", **fields, target="depth").example(4).target
    assert (depths[:, :, :4] == 0).all()
    assert (depths[:, :, 4:] == 2.5).all()


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            torch.ones(3),
            r"data\['train'\], batch 0: the field `weight` must have a number for each of 4 samples, got \(3,\)",
        ),
        (torch.ones(4, 2), r"a number for each of 4 samples, got \(4, 2\)"),
        (torch.tensor([1.0, -2.0, 1.0, 1.0]), "a sample's weight must be a number >= 0, got -2"),
        ([1.0, float("nan"), 1.0, 1.0], "a sample's weight must be a number >= 0, got nan"),
        (["a", "b", "c", "d"], "the field `weight` must have 4 numbers >= 0, got list"),
        (torch.tensor(1.0), r"a number for each of 4 samples, got \(\)"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Any, says: str):
    with pytest.raises(StillhouseError, match=says):
        opened((X, torch.tensor([0, 1, 2, 0]), weights), **THREE)


@pytest.mark.parametrize(
    ("batch", "args", "says"),
    [
        ((X, torch.zeros(4).long(), torch.ones(4)), {"classes": 3}, r"must be \(inputs, targets\), got 3 values: Tensor, .* names"),
        ({"image": X, "label": torch.zeros(4).long()}, {"classes": 3}, r"must be \(inputs, targets\), got 'image', 'label'"),
        ({"image": X, "label": torch.zeros(4).long()}, NAMED, r"no field 'pixel_values' \(its fields are 'image', 'label'\)"),
        ((X, torch.zeros(4).long()), THREE, r"has no field 2: it has 2 values: Tensor, Tensor"),
        ((X, torch.zeros(4).long(), X[:, 0]), {"fields": ["input", "target", "mask"], "classes": 3},
         "`mask` needs targets of kind 'mask' with `ignore`, or 'depth', got 'class'"),
        ((X, torch.zeros(4, 8, 8).long(), torch.ones(3, 8, 8)),
         {"fields": ["input", "target", "mask"], "target": "mask", "classes": 3, "ignore": 255}, "the masks of 4 samples, got 3"),
        ((X, torch.zeros(4, 8, 8).long(), torch.ones(4, 8, 7)),
         {"fields": ["input", "target", "mask"], "target": "mask", "classes": 3, "ignore": 255},
         r"batch 0: the field `mask` must have the target's size \(8, 8\), got \(8, 7\)"),
    ],
)  # fmt: skip
def test_fields_that_are_not_there_or_of_another_shape_are_named(batch: Any, args: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        opened(batch, "segmentation" if args.get("target") == "mask" else "classification", **args)


def test_a_mask_of_classes_is_refused_of_a_data_set_as_well():
    sets = {name: TensorDataset(*part.tensors, part.tensors[0]) for name, part in tiny_data().items()}
    with pytest.raises(
        StillhouseError, match="`mask` needs targets of kind 'mask' with `ignore`, or 'depth', got 'class'"
    ):
        prepare(made(0.1, {"fields": ["input", "target", "mask"]}), data=sets, write=False)
