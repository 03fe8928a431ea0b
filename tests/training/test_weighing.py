"""The samples' own weights in the task's loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import TinyNet, recipe, same_state, tiny_data
from torch.utils.data import TensorDataset

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.training.explanation import describe, render_text

FIELDS = {"fields": ["input", "target", "weight"]}


def weighted(weights: torch.Tensor) -> dict[str, TensorDataset]:
    sets = tiny_data()
    ones = {name: torch.ones(len(part)) for name, part in sets.items()} | {"train": weights}
    return {name: TensorDataset(*part.tensors, ones[name]) for name, part in sets.items()}


def of(lr: float = 0.1, **data: Any) -> Recipe:
    made = recipe(teacher=None, optimizer={"name": "sgd", "lr": lr}).to_dict()
    made["data"] |= data
    return Recipe.from_dict(made)


def test_the_tasks_loss_counts_them_and_what_is_measured_does_not():
    double = train(of(args=FIELDS), data=weighted(torch.full((24,), 2.0)), write=False)
    plain = train(of(lr=0.2), data=tiny_data(), write=False)
    for own, other in zip(double.student.parameters(), plain.student.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert double.history[0]["loss"] == pytest.approx(plain.history[0]["loss"])


def test_a_step_follows_the_mean_of_weight_times_loss():
    weights = torch.rand(24, generator=torch.Generator().manual_seed(0)) * 3
    made = of(args=FIELDS, batch_size=24, normalize="none").to_dict()
    made["run"]["epochs"] = 1
    student = TinyNet(dropout=0.0)
    reference = copy.deepcopy(student).double()
    train(Recipe.from_dict(made), data=weighted(weights), student=student, write=False)
    images, labels = tiny_data()["train"].tensors
    loss = F.cross_entropy(reference(images.double()), labels, reduction="none")
    (weights.double() * loss).sum().div(24).backward()
    for own, other in zip(student.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(own.double(), other - 0.1 * other.grad, atol=1e-6)


def test_a_sample_of_weight_0_teaches_nothing():
    sets, weights = weighted(torch.ones(24)), torch.ones(24)
    weights[::2] = 0.0
    images, labels, _ = sets["train"].tensors
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 3
    students = [
        train(of(args=FIELDS), data={**sets, "train": TensorDataset(images, told, weights)}, write=False).student
        for told in (labels, wrong)
    ]
    assert same_state(students[0].state_dict(), students[1].state_dict())


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (torch.zeros(24), "every training sample has the weight 0"),
        (torch.full((24,), -1.0), r"sample 0: a sample's weight must be a number >= 0, got -1"),
    ],
)
def test_weights_that_are_none_are_refused(weights: torch.Tensor, says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(of(args=FIELDS), data=weighted(weights), write=False)


def test_an_explanation_says_that_samples_are_weighed():
    training = prepare(of(args=FIELDS), data=weighted(torch.linspace(0, 3, 24)), write=False)
    assert "weights of samples from 0 to 3" in render_text(describe(training))
    training.close()


def test_weights_and_unlabelled_samples_go_together():
    sizes = {"per_class": 4, "pool": "rest", "batch_size": 6}
    double, plain = (
        train(of(lr=lr, args=FIELDS, **sizes), data=weighted(torch.full((24,), weight)), write=False).student
        for lr, weight in ((0.1, 2.0), (0.2, 1.0))
    )
    for own, other in zip(double.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
