"""Teachers whose features lie far from zero: mean and spread are parted before anything is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TinyNet, recipe
from torch import Tensor, nn

from stillhouse import prepare, train
from stillhouse.teachers.cache import Moments
from stillhouse_tcs import CoordinateHead, find_axes, fold, probe_teacher

OFFSETS = [0.0, 20.0, 2e3]
"""Of the features, whose standard deviation is about a tenth."""


class Offset(nn.Module):
    """TinyNet's body, and a number added to each feature."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.offset, self.pool = TinyNet(width=6), offset, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, 6)."""
        x = self.net.body(torch.relu(self.net.norm(self.net.stem(x)))).mean((2, 3))
        return self.pool(x + self.offset)


def prepared(offset: float, **options: Any) -> Any:
    table = {"use": "tcs", "layer": "pool", "k": 4, **options}
    return prepare(recipe(table), teacher=Offset(offset), write=False)


@pytest.mark.parametrize("store", ["float16", "float32"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_cached_coordinates_are_the_teachers_own_in_float64(offset: float, store: str):
    training = prepared(offset, store=store)
    head, (cache,) = training.run.student.head, training.assembly.caches.values()
    batch, system = training.data.example(24), head.system
    own = cache.take("features/pool", batch.id, centre=system.centre) / system.scale @ head.project.axes
    with torch.no_grad():
        features = Offset(offset).eval()(batch.input).double()
    true = (features - system.centre) / system.scale @ system.vectors
    # A float16 of the features themselves would lose an eighth of this at 2,000 standard deviations, more at these.
    assert (own.double() - true).square().sum() < 1e-5 * true.square().sum()


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_cache_that_is_opened_again_gives_the_features_themselves(offset: float):
    prepared(offset).close()
    training = prepared(offset)
    (cache,) = training.assembly.caches.values()
    batch = training.data.example(24)
    with torch.no_grad():
        features = Offset(offset).eval()(batch.input)
    spread = float(features.double().std(0).max())
    assert cache.was_there
    assert cache.names == ["features/pool"]
    found = cache.take("features/pool", batch.id)
    assert (found - features).abs().max() <= 8 * spread * 2**-11 + offset * 2**-23
    rows = cache.rows("features/pool", 0, len(cache), centre=torch.full((6,), offset, dtype=torch.float64))
    assert rows.abs().max() < 20 * spread + 1


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("preset", ["ours", "paper"])
def test_a_run_ends_and_folds(offset: float, preset: str):
    table = {"use": "tcs", "layer": "pool", "k": 4, "preset": preset}
    result = train(recipe(table), teacher=Offset(offset), write=False)
    assert isinstance(result.student.head, nn.Linear)


def test_the_run_and_the_probe_are_the_same_wherever_the_features_lie():
    near, far = (
        train(recipe({"use": "tcs", "layer": "pool", "k": 4, "store": "float32"}), teacher=Offset(o), write=False)
        for o in (0.0, 64.0)
    )
    assert far.metrics["test"]["loss"] == pytest.approx(near.metrics["test"]["loss"], rel=1e-3)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.integers(0, 2**31),
    st.integers(2, 24),
    st.integers(1, 9),
    st.sampled_from([0.0, 10.0, 300.0, 1e4]),
)
def test_path_gradients_and_folded_layer_are_those_of_float64(seed: int, d_t: int, d_s: int, ratio: float):
    """With the mean up to 10,000 standard deviations: c = V^T (A z + b + mu - mu), in float64 with mu added and taken away."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(60, d_t)) * np.logspace(0, -1, d_t) + ratio
    moments = Moments(d_t)
    moments.add(torch.from_numpy(rows.astype(np.float32)))
    axes = find_axes(moments, "pca", min(d_t, 5))
    torch.manual_seed(seed % 1000)
    head = CoordinateHead(d_s, 3, axes)
    with torch.no_grad():
        head.lift.bias.normal_()
    z = torch.from_numpy(generator.normal(size=(20, d_s))).float().requires_grad_()
    logits = head(z)
    logits.square().sum().backward()

    wide = z.detach().double().requires_grad_()
    A = torch.eye(d_t).double() if head.lift.weight is None else head.lift.weight.detach().double()
    b = (head.lift.bias.detach().double() + axes.mean).requires_grad_()
    c = (wide @ A.T + b - axes.mean) @ axes.vectors
    expected = c @ head.readout.weight.detach().double().T + head.readout.bias.detach().double()
    expected.square().sum().backward()
    for found, true in (
        (logits, expected),
        (z.grad, wide.grad),
        (head.lift.bias.grad, b.grad),
        (fold(head, d_s)(z), expected),
    ):
        assert found is not None
        assert true is not None
        largest = max(1e-3, float(true.detach().abs().max()))
        torch.testing.assert_close(found.double() / largest, true / largest, rtol=0, atol=2e-5)


def test_the_teachers_probe_does_not_see_the_offset():
    near, far = (
        probe_teacher(
            recipe(teacher={"model": "plugins.test_tcs_offset:Offset", "args": {"offset": o}, "random": True}), "pool"
        )
        for o in (0.0, 64.0)
    )
    assert near == far
