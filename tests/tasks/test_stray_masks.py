"""Masks with values of no class: the loss of a split is one and the same, however it is cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from scipy.special import log_softmax

from stillhouse.tasks.measures import measure_loss
from stillhouse.tasks.segmentation import Segmentation


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 9), st.sampled_from([0.0, 0.1]))
def test_the_validation_loss_does_not_depend_on_the_batches(seed: int, samples: int, size: int, smoothing: float):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(samples, 3, 2, 2))
    masks = generator.choice([0, 1, 2, 255, 7, -3], size=(samples, 2, 2))
    task = Segmentation(label_smoothing=smoothing)
    metric = measure_loss(task)
    batches = [slice(start, start + size) for start in range(0, samples, size)]
    x, y = torch.from_numpy(logits).float(), torch.from_numpy(masks)
    engine = Engine(lambda _engine, part: {"output": x[part], "target": y[part], "input": None})
    metric.attach(engine, "loss")
    found = engine.run(batches).metrics["loss"]

    logs = log_softmax(logits, 1)
    label = np.clip(masks, 0, 2)[:, None]
    each = -(1 - smoothing) * np.take_along_axis(logs, label, 1)[:, 0] - smoothing * logs.mean(1)
    labelled = masks != 255
    expected = each[(masks >= 0) & (masks < 3)].sum() / max(1, labelled.sum())
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_parts_add_up_to_the_whole_batchs_loss_and_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64).float().requires_grad_()
    y = torch.tensor([0, 1, 2, 255, 7]).repeat(4)[:16].reshape(4, 2, 2)
    task = Segmentation()
    (whole,) = torch.autograd.grad(task.loss(x, y), x)
    total = task.count(y)
    parts = sum(task.loss(x[p], y[p]) * task.count(y[p]) / total for p in (slice(0, 1), slice(1, 4)))
    (summed,) = torch.autograd.grad(parts, x)  # type: ignore[arg-type]
    torch.testing.assert_close(summed, whole)
