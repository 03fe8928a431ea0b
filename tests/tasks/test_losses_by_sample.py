"""A task's losses by sample: their sum by the count is the task's loss, and each is the textbook's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillhouse.contract.task import Task
from stillhouse.tasks.classification import Classification
from stillhouse.tasks.depth import Depth
from stillhouse.tasks.detection import Detection
from stillhouse.tasks.images import ImageToImage
from stillhouse.tasks.multilabel import MultiLabel
from stillhouse.tasks.regression import Regression
from stillhouse.tasks.segmentation import Segmentation
from stillhouse.tasks.self_supervision import SelfSupervised

torch.set_num_threads(1)
QUICK = settings(derandomize=True, deadline=None, max_examples=15)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
"""Samples, classes or numbers, height, width."""


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holds(task: Task, output: Tensor, targets: Any, expected: list[float], count: float) -> None:
    """Whether the losses by sample are ``expected``, their count is ``count``, and their mean is the loss with its gradient."""
    output = output.requires_grad_()
    found = task.loss_by_sample(output, targets)
    assert found is not None
    sums, counted = found
    assert sums.shape == (len(output),)
    assert sums.dtype == torch.float32
    np.testing.assert_allclose(sums.detach().double().numpy(), expected, rtol=2e-5, atol=2e-5)
    assert counted is None or counted.ndim == 0
    assert (len(sums) if counted is None else int(counted)) == count
    mean = sums.sum() / max(count, 1)
    loss = task.loss(output, targets)
    torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)
    (ours,), (whole,) = torch.autograd.grad(mean, [output]), torch.autograd.grad(loss, [output])
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def cross_entropy(logits: np.ndarray, probabilities: np.ndarray, smoothing: float) -> float:
    smoothed = (1 - smoothing) * probabilities + smoothing / len(logits)
    return float(-(smoothed * log_softmax(logits)).sum())


@QUICK
@given(SHAPES, st.sampled_from([0.0, 0.1]), st.booleans(), st.integers(0, 99))
def test_classification(shape: tuple[int, ...], smoothing: float, soft: bool, seed: int):
    b, c = shape[:2]
    c += 1
    logits = torch.randn(b, c, generator=drawn(seed)) * 3
    classes = torch.randint(c, (b,), generator=drawn(seed))
    one_hot = torch.nn.functional.one_hot(classes, c).double()
    probabilities = torch.rand(b, c, generator=drawn(seed)).softmax(1).double() if soft else one_hot
    expected = [
        cross_entropy(x, p, smoothing) for x, p in zip(logits.double().numpy(), probabilities.numpy(), strict=True)
    ]
    task = Classification(label_smoothing=smoothing)
    holds(task, logits, probabilities.float() if soft else classes, expected, b)


@QUICK
@given(SHAPES, st.sampled_from([0.0, 0.1]), st.integers(0, 99))
def test_segmentation(shape: tuple[int, ...], smoothing: float, seed: int):
    b, c, h, w = shape
    c += 1
    logits = torch.randn(b, c, h, w, generator=drawn(seed)) * 3
    mask = torch.randint(c + 1, (b, h, w), generator=drawn(seed))
    mask[mask == c] = 255
    mask[0] = 255  # a sample of which nothing counts
    expected = [
        sum(
            cross_entropy(logits[i, :, y, x].double().numpy(), np.eye(c)[int(mask[i, y, x])], smoothing)
            for y in range(h)
            for x in range(w)
            if mask[i, y, x] != 255
        )
        for i in range(b)
    ]
    holds(Segmentation(label_smoothing=smoothing), logits, mask, expected, int((mask != 255).sum()))


@QUICK
@given(SHAPES, st.integers(0, 99))
def test_multi_label(shape: tuple[int, ...], seed: int):
    b, c = shape[:2]
    logits = torch.randn(b, c, generator=drawn(seed)) * 3
    labels = (torch.rand(b, c + 2, generator=drawn(seed)) > 0.5).float()  # a mask's labels have more than the classes
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), labels[:, :c].double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1)
    holds(MultiLabel(), logits, labels, list(expected), b)


@QUICK
@given(SHAPES, st.sampled_from(["l2", "l1", "huber"]), st.integers(0, 99))
def test_regression(shape: tuple[int, ...], kind: Any, seed: int):
    b, d = shape[:2]
    output, target = torch.randn(b, d, generator=drawn(seed)) * 2, torch.randn(b, d, generator=drawn(seed + 1))
    target[0] = math.nan
    error = np.nan_to_num((output - target).double().numpy())
    size = np.abs(error)
    each = {"l2": error**2, "l1": size, "huber": np.where(size < 1, error**2 / 2, size - 0.5)}[kind]
    holds(Regression(kind=kind), output, target, list(each.sum(1)), d * (b - 1))


@QUICK
@given(SHAPES, st.sampled_from(["l2", "l1"]), st.integers(0, 99))
def test_image_tasks(shape: tuple[int, ...], kind: Any, seed: int):
    output, target = torch.rand(shape, generator=drawn(seed)), torch.rand(shape, generator=drawn(seed + 1))
    error = (output.double() - target.double()).numpy()
    each = np.abs(error) if kind == "l1" else error**2
    holds(ImageToImage(kind=kind), output, target, list(each.mean((1, 2, 3))), shape[0])


@QUICK
@given(SHAPES, st.sampled_from(["silog", "l1"]), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99))
def test_depth(shape: tuple[int, ...], kind: Any, share: float, seed: int):
    b, _, h, w = shape
    output = torch.randn(b, 1, h, w, generator=drawn(seed))
    target = torch.rand(b, 1, h, w, generator=drawn(seed + 1)) * 5 + 0.1
    target[torch.rand(b, 1, h, w, generator=drawn(seed + 2)) < 0.3] = 0
    target[0] = 0  # an image of holes alone
    metres, expected = np.exp(output.double().numpy()), []
    for found, true in zip(metres, target.double().numpy(), strict=True):
        known = true > 0
        if kind == "l1":
            expected.append(float(np.abs(found - true)[known].sum()))
            continue
        d = (np.log(found) - np.log(np.where(known, true, 1)))[known]
        expected.append(float((d**2).mean() - share * d.mean() ** 2) if len(d) else 0.0)
    known = (target > 0).flatten(1)
    count = int(known.any(1).sum() if kind == "silog" else known.sum())
    holds(Depth(kind=kind, silog_lambda=share, output="log"), output, target, expected, count)


@pytest.mark.parametrize("task", [Detection(), SelfSupervised()])
def test_a_loss_that_is_no_sum_over_samples_has_none(task: Task):
    assert task.loss_by_sample(torch.ones(4, 2), torch.zeros(2)) is None
