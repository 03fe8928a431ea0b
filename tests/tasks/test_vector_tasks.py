"""Multi-label and regression, and what classification gained: labels from dense targets, metrics against references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, r2_score, recall_score
from support.task_support import cut, info, measured

from stillhouse import StillhouseError
from stillhouse.data import DataInfo
from stillhouse.tasks import Classification
from stillhouse.tasks.multilabel import MultiLabel
from stillhouse.tasks.regression import Regression


def vectors(numbers: int) -> DataInfo:
    """Data with vectors."""
    return info(numbers, "vector", target_shape=(numbers,))


def test_the_classes_of_a_mask_become_labels():
    mask = torch.tensor([[0, 0, 0, 2], [0, 0, 255, 255], [0, 0, 2, 1]], dtype=torch.uint8)
    _, all_of_them = MultiLabel().sample(torch.zeros(3, 3, 4), mask)
    _, two_of_twelve = MultiLabel(min_share=2 / 12).sample(torch.zeros(3, 3, 4), mask)
    assert all_of_them[:4].tolist() == [1, 1, 1, 0]
    assert two_of_twelve[:4].tolist() == [1, 0, 1, 0]
    assert float(all_of_them.sum()) == 3  # the ignored value is none of them
    vector = torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(MultiLabel().sample(torch.zeros(3, 3, 4), vector)[1], vector)


def test_multi_label_loss_is_binary_cross_entropy_whatever_stands_past_the_classes():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), (torch.rand(5, 3) > 0.5).float()
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    y = labels.double().numpy()
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert float(MultiLabel().loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    wide = torch.cat([labels, torch.ones(5, 253)], 1)
    assert torch.equal(MultiLabel().loss(logits, wide), MultiLabel().loss(logits, labels))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the positives of the precision down to each, ties at once."""
    return np.mean([labels[scores >= s].mean() for s in scores[labels == 1]])


@pytest.mark.parametrize("classes", [1, 4])
def test_multi_label_metrics(classes):
    torch.manual_seed(1)
    logits = torch.randn(23, classes).round(decimals=1)  # some tie
    labels = (torch.rand(23, classes) + 0.2 * logits > 0.6).float()
    if classes > 1:
        labels[:, 2] = 0  # a class that nobody has
    found = measured(MultiLabel(), vectors(classes), *cut([10, 10, 3], logits, labels))
    kept = [k for k in range(classes) if labels[:, k].any()]
    x, y = logits.double().numpy(), labels.numpy().astype(int)
    by_class = [average_precision(x[:, k], y[:, k]) for k in kept]
    assert found["ap"][kept].tolist() == pytest.approx(by_class)
    assert found["ap"].isnan().sum() == classes - len(kept)
    assert found["map"] == pytest.approx(np.mean(by_class))
    predicted = (x >= 0).astype(int)
    assert found["f1"] == pytest.approx(np.mean([f1_score(y[:, k], predicted[:, k]) for k in kept]))
    assert found["f1_micro"] == pytest.approx(f1_score(y.ravel(), predicted.ravel()))
    assert found["accuracy"] == pytest.approx((predicted == y).mean())


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    b=st.integers(1, 4),
    d=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    kind=st.sampled_from(["l1", "l2", "huber"]),
)
def test_regression_loss_and_gradient_are_those_of_the_measured_targets(seed, b, d, share, kind):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, d, generator=generator, dtype=torch.float64)
    target = torch.randn(b, d, generator=generator) * 2
    target[torch.rand(b, d, generator=generator) < share] = float("nan")
    ours, theirs = x.float().requires_grad_(), x.clone().requires_grad_()
    known = ~target.isnan()
    e = (theirs - target.double())[known]
    each = {"l1": e.abs(), "l2": e**2, "huber": torch.nn.functional.huber_loss(e, e * 0, reduction="none")}[kind]
    expected = each.sum() / max(1, int(known.sum()))
    task = Regression(kind=kind)
    loss = task.loss(ours, target)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)
    assert int(task.count(target)) == int(known.sum())


def test_regression_metrics_are_scikit_learns():
    torch.manual_seed(2)
    target = torch.randn(17, 3) * 2 + 5
    output = target + 0.5 * torch.randn(17, 3)
    holed = target.clone()
    holed[:4, 1] = float("nan")
    found = measured(Regression(), vectors(3), *cut([8, 9], output, holed))
    error = (output - holed).double().numpy()
    assert found["mae"] == pytest.approx(np.nanmean(np.abs(error)))
    assert found["rmse"] == pytest.approx(np.sqrt(np.nanmean(error**2)))
    assert found["mae_each"].tolist() == pytest.approx(np.nanmean(np.abs(error), axis=0).tolist())
    kept = [~holed[:, k].isnan() for k in range(3)]
    r2 = [r2_score(holed[m, k].double(), output[m, k].double()) for k, m in enumerate(kept)]
    assert found["r2"] == pytest.approx(np.mean(r2))
    with pytest.raises(StillhouseError, match="must have measured targets"):
        measured(Regression(), vectors(1), (torch.zeros(2, 1), torch.full((2, 1), float("nan"))))


def test_the_mean_of_the_measured_depths_is_the_number():
    depth = torch.tensor([[[1.0, 0.0], [3.0, float("nan")]]])
    _, mean = Regression().sample(torch.zeros(3, 2, 2), depth)
    _, none = Regression().sample(torch.zeros(3, 2, 2), torch.zeros(1, 2, 2))
    assert mean.tolist() == [2.0]
    assert none.isnan().tolist() == [True]
    assert Regression().outputs(info(0, "depth")) == 1
    assert Regression().outputs(vectors(5)) == 5
    assert Regression().prediction(info(0, "depth"), torch.tensor([1.25])) == {"values": {"mean depth": 1.25}}


def test_what_cannot_serve_is_refused():
    with pytest.raises(StillhouseError, match="num_classes = 3"):
        MultiLabel().check(torch.zeros(2, 4), torch.zeros(2, 256), info(3))
    with pytest.raises(StillhouseError, match=r"ignore_index = 7"):
        MultiLabel().check(torch.zeros(2, 3), torch.zeros(2, 256), info(3, ignore=7))
    with pytest.raises(StillhouseError, match="num_classes = 5"):
        MultiLabel().check(torch.zeros(2, 3), torch.zeros(2, 5), vectors(5))
    with pytest.raises(StillhouseError, match=r"must be in \[0, 1\]"):
        MultiLabel().check(torch.zeros(2, 3), torch.full((2, 3), 2.0), vectors(3))
    with pytest.raises(StillhouseError, match="linear layer"):
        Regression().check(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1), info(0, "depth"))


def test_classification_tells_the_recall_of_each_class():
    torch.manual_seed(3)
    logits, labels = torch.randn(20, 4), torch.randint(0, 3, (20,))
    found = measured(Classification(), info(4, "class"), *cut([12, 8], logits, labels))
    expected = recall_score(labels, logits.argmax(1), labels=range(3), average=None)
    assert found["recall"][:3].tolist() == pytest.approx(expected.tolist())
    assert found["recall"][3].isnan()
    wide = measured(Classification(), info(3, "class"), (logits, labels))  # a logit more than there are classes
    assert len(wide["recall"]) == 3


def test_predictions_name_classes():
    data = info(3, "class", (1, 8, 8))
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert [t["class"] for t in Classification().prediction(data, logits)["top"]] == ["b", "c", "a"]
    assert Classification().prediction(data, logits)["class"] == "b"
    assert sum(t["probability"] for t in Classification().prediction(data, logits)["top"]) == pytest.approx(1, abs=1e-3)
    found = MultiLabel().prediction(data, logits - 1.5)
    assert found["labels"] == ["b"]
    assert found["probabilities"][0] == {"class": "b", "probability": 0.6225}
    assert Regression().prediction(vectors(2), torch.tensor([1.0, -2.0])) == {"values": {"a": 1.0, "b": -2.0}}


@pytest.mark.parametrize("task", [Classification(), MultiLabel(), Regression()])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures(task, channels):
    data = info(3, "vector", (channels, 8, 8), target_shape=(3,))
    assert task.picture(data, torch.rand(channels, 8, 8), torch.randn(3)).mode == "RGB"
    targets = torch.tensor([0, 2, 1]) if isinstance(task, Classification) else torch.ones(3, 3)
    shown = (data, torch.rand(3, channels, 8, 8), torch.randn(3, 3), targets)
    figure = task.figures(*shown)["samples"]
    titles = [a.get_title() for a in figure.axes if a.get_title()]
    assert len(titles) == 3
    assert all([line.split(":")[0] for line in t.split("\n")] == ["true", "student"] for t in titles)
    beside = task.figures(*shown, torch.randn(3, 3))["samples"]
    assert all("\nteacher: " in a.get_title() for a in beside.axes if a.get_title())
    other = task.figures(*shown, torch.randn(3, 7))["samples"]  # of other classes
    assert not any("teacher" in a.get_title() for a in other.axes)
