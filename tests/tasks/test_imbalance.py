"""Classes of different size: weights in the loss, focal loss, metrics by class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from support import recipe

from stillhouse import StillhouseError, StillhouseWarning, prepare
from stillhouse.contract.batch import DataInfo
from stillhouse.loop.stepper import Stepper
from stillhouse.tasks import Classification
from stillhouse.tasks.measures import measure_loss
from stillhouse.tasks.segmentation import Segmentation
from stillhouse.training.one_class import find_only_class


def info(*counts: int, target: str = "class") -> DataInfo:
    names = tuple("abcdefgh"[: len(counts)])
    return DataInfo(
        len(counts), names, (1, 6, 6), {}, "", class_counts=counts if target == "class" else (), target=target
    )


def reference(logits: np.ndarray, shares: np.ndarray, weights: np.ndarray, gamma: float) -> np.ndarray:
    """By the formula, in float64, for each sample."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -(shares * weights * (1 - p) ** gamma * np.log(p)).sum(1)


@settings(deadline=None, max_examples=30)
@given(
    b=st.integers(1, 6),
    c=st.integers(2, 5),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_weighted_and_focal_losses_are_those_of_the_formula(b: int, c: int, gamma: float, smoothing: float, seed: int):
    draw = np.random.default_rng(seed)
    logits, targets = draw.normal(size=(b, c)) * 2, draw.integers(0, c, b)
    weights = draw.uniform(0.2, 3.0, c)
    task = Classification(
        class_weights={"abcde"[i]: float(w) for i, w in enumerate(weights)}, focal=gamma, label_smoothing=smoothing
    ).for_data(info(*[1] * c))
    shares = np.eye(c)[targets] * (1 - smoothing) + smoothing / c
    each, total = reference(logits, shares, weights, gamma), weights[targets].sum()
    x = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = task.loss(x, torch.tensor(targets))
    assert loss.item() == pytest.approx(each.sum() / total, rel=1e-4)
    by_sample, divisor = task.loss_by_sample(x, torch.tensor(targets))
    assert torch.allclose(by_sample.detach().double(), torch.tensor(each), rtol=1e-4, atol=1e-6)
    assert divisor is not None
    assert divisor.item() == pytest.approx(total, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, x)
    step = 1e-5
    for i in range(b):
        for j in range(c):
            moved = [logits.copy(), logits.copy()]
            moved[0][i, j] += step
            moved[1][i, j] -= step
            up, down = (reference(m, shares, weights, gamma).sum() / total for m in moved)
            assert gradient[i, j].item() == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-5)


def test_balanced_weights_are_scikit_learns_and_count_nothing_for_what_is_not_there():
    labels = np.repeat([0, 1, 2], [8, 3, 1])
    weights = Classification(class_weights="balanced").for_data(info(8, 3, 1)).class_weights
    assert isinstance(weights, dict)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert [*weights.values()] == pytest.approx(wanted.tolist())
    assert Classification(class_weights="balanced").for_data(info(8, 0, 2)).class_weights == {
        "a": 0.625,
        "b": 1.0,
        "c": 2.5,
    }


def test_mixed_targets_are_averaged_over_samples():
    task = Classification(class_weights={"a": 3.0}).for_data(info(1, 1))
    logits, shares = torch.randn(4, 2), torch.full((4, 2), 0.5)
    assert task.loss(logits, shares) == F.cross_entropy(logits, shares, weight=torch.tensor([3.0, 1.0]))
    assert task.count(shares) is None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"class_weights": {"0": -1.0}}, r"class_weights.0: must be finite and >= 0, got -1.0"),
        ({"class_weights": {"nobody": 2.0}}, r"task.args.class_weights.nobody: is none of the data's classes"),
        ({"class_weights": "blanced"}, r"task.args.class_weights"),
        ({"focal": -1.0}, r"focal: must be in \[0, 100\]"),
        ({"measure": ["f2"]}, r"task.args.measure"),
    ],
)
def test_what_is_no_weight_is_refused(args: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(teacher=None, task={"args": args}), write=False)


def test_weights_of_parts_and_of_the_whole_batch_are_one():
    args = {"class_weights": {"0": 4.0}, "focal": 2.0}
    student = {"model": "support:TinyNet", "args": {"dropout": 0.0}}
    first = []
    for parts in (1, 2):
        made = recipe(teacher=None, run__accumulate=parts, run__epochs=1, student=student, task={"args": args})
        training = prepare(made, write=False)
        training.run.student.norm.eval()  # statistics are a part's
        training.run.student.norm.requires_grad_(False)
        first.append(training)
    batch = next(iter(first[0].data.training(0)))
    gradients = []
    for training in first:
        training.run.composition.eval()
        Stepper(training.assembly, training.walk.composition, training.optimizer).gradients(
            batch, 0, 0, SimpleNamespace()
        )
        gradients.append([p.grad.clone() for p in training.run.student.parameters() if p.grad is not None])
        training.close()
    assert len(gradients[0]) > 2
    for whole, parted in zip(*gradients, strict=True):
        assert torch.allclose(whole, parted, atol=1e-6)


def test_pixels_have_their_classes_weights_and_ignored_ones_none():
    task = Segmentation(class_weights={"b": 5.0}).for_data(info(0, 0, 0, target="mask"))
    logits, mask = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    mask[0, 0] = 255
    wanted = F.cross_entropy(logits, mask, weight=torch.tensor([1.0, 5.0, 1.0]), ignore_index=255)
    assert torch.allclose(task.loss(logits, mask), wanted)
    assert task.count(mask) == (mask == 1).sum() * 5 + ((mask == 0) | (mask == 2)).sum()
    with pytest.raises(StillhouseError, match="'balanced' needs a class for each sample"):
        Classification(class_weights="balanced").for_data(info(0, 0, target="mask"))


def measured(task: Classification, data: DataInfo, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    metrics = task.metrics(data)
    for metric in metrics.values():
        metric.reset()
    from ignite.engine import Engine

    engine = Engine(lambda _, rows: {"output": logits[rows], "target": targets[rows], "input": logits[rows]})
    for name, metric in metrics.items():
        metric.attach(engine, name)
    return engine.run(torch.arange(len(targets)).split(7), max_epochs=1).metrics


def test_metrics_by_class_are_scikit_learns():
    generator = torch.Generator().manual_seed(1)
    targets = torch.tensor([0] * 30 + [1] * 8 + [2] * 3)
    logits = torch.randn(41, 3, generator=generator) + 1.5 * F.one_hot(targets, 3)
    names = ("f1", "precision", "balanced_accuracy", "auroc")
    found = measured(Classification(measure=names), info(30, 8, 3), logits, targets)
    y, said, p = targets.numpy(), logits.argmax(1).numpy(), logits.double().softmax(1).numpy()
    wanted = {
        "f1": f1_score(y, said, average="macro"),
        "precision": precision_score(y, said, average="macro", zero_division=0),
        "balanced_accuracy": balanced_accuracy_score(y, said),
        "auroc": roc_auc_score(y, p, multi_class="ovr", average="macro"),
    }
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-6)
        assert len(found[f"{name}_by_class"]) == 3
    assert found["f1_by_class"].tolist() == pytest.approx(f1_score(y, said, average=None).tolist())


def test_a_class_that_the_split_has_not_is_left_out_of_the_means():
    targets = torch.tensor([0, 0, 2, 2])
    logits = torch.eye(3)[torch.tensor([0, 2, 2, 2])]
    found = measured(Classification(measure=("balanced_accuracy", "auroc")), info(2, 0, 2), logits, targets)
    assert found["balanced_accuracy"] == 0.75
    assert found["auroc_by_class"].isnan().tolist() == [False, True, False]


def test_top5_is_measured_where_there_are_more_than_five_classes():
    assert "top5" not in Classification().metrics(info(*[1] * 5))
    assert "top5" in Classification().metrics(info(*[1] * 6))


def test_a_student_that_always_says_one_class_is_told_of_once():
    made = recipe(teacher=None, run__epochs=7, optimizer={"lr": 1e-9}, student__args={"dropout": 0.0})
    training = prepare(made, write=False)
    with torch.no_grad():
        training.run.student.head.bias[1] = 50.0
    with pytest.warns(StillhouseWarning, match=r"has said '1' for every validation sample in 5 measurements") as told:
        training.fit()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("recall", "found"),
    [
        (torch.tensor([0.0, 1.0, 0.0]), 1),
        (torch.tensor([torch.nan, 1.0, 0.0]), 1),
        (torch.tensor([torch.nan, 1.0]), None),
        (torch.tensor([0.5, 0.5]), None),
        (torch.tensor([0.0, 0.0]), None),
        (torch.tensor(1.0), None),
        (None, None),
    ],
)
def test_one_class_is_always_said_where_no_other_is_ever_found(recall: Any, found: int | None):
    assert find_only_class(recall) == found


def test_a_batch_whose_classes_weigh_nothing_has_no_loss():
    task = Classification(class_weights={"a": 0.0, "b": 1.0})
    output = torch.randn(3, 2, requires_grad=True)
    for made in (task, attrs.evolve(task, focal=2.0)):
        loss = made.loss(output, torch.zeros(3, dtype=torch.long))
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, output)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_small_weights_measure_as_they_train():
    task = Segmentation(class_weights={"a": 1e-4, "b": 2e-4})
    output, target = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    metric = measure_loss(task)
    engine = Engine(lambda _engine, _batch: {"output": output, "target": target, "input": None})
    metric.attach(engine, "loss")
    found = engine.run([0]).metrics["loss"]
    assert float(found) == pytest.approx(task.loss(output, target).item(), rel=1e-5)
    assert found > 0.1


def test_the_validation_loss_is_float32s_whatever_the_student_runs_in():
    data = info(3, 3)
    metric = Classification().metrics(data)["loss"]
    output, target = (torch.randn(64, 2) * 3).bfloat16(), torch.randint(0, 2, (64,))
    engine = Engine(lambda _engine, _batch: {"output": output, "target": target, "input": None})
    metric.attach(engine, "loss")
    expected = F.cross_entropy(output.double(), target).item()
    assert engine.run([0]).metrics["loss"] == pytest.approx(expected, rel=1e-5)
