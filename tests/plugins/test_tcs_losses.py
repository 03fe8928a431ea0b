"""The losses on coordinates, hashes and soft targets, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from support.coordinates import moments_of, rows_of

from stillhouse_tcs import elsh, find_axes, pca_mse, soft_targets
from stillhouse_tcs.mimic import Bits


def test_pca_mse_is_the_relative_squared_error_over_live_dimensions():
    generator = np.random.default_rng(0)
    s, t = generator.normal(size=(2, 9, 4))
    live = np.array([1.0, 0.0, 1.0, 1.0])
    expected = (np.square(s - t) * live).sum(1).mean() / 2.5
    tensors = (torch.from_numpy(a).float() for a in (s, t, live))
    assert float(pca_mse(*tensors, torch.tensor(2.5))) == pytest.approx(expected, rel=1e-6)


def test_a_student_of_no_coordinates_has_the_loss_one():
    rows = rows_of()
    axes = find_axes(moments_of(rows), "pca", 5)
    c = torch.from_numpy((rows / axes.scale - axes.mean.numpy()) @ axes.vectors.numpy())
    assert float(pca_mse(torch.zeros_like(c), c, torch.ones(5), torch.tensor(axes.energy))) == pytest.approx(1.0)


def test_elsh_is_the_binary_cross_entropy_of_the_hashes():
    generator = np.random.default_rng(0)
    h, vectors, bias = generator.normal(size=(6, 4)), generator.normal(size=(4, 11)), generator.normal(size=11)
    bits = generator.random((6, 11)) > 0.5
    p = expit(h @ vectors + bias)
    expected = -(bits * np.log(p) + ~bits * np.log1p(-p)).mean()
    arguments = (torch.from_numpy(a).float() for a in (h, bits.astype(float), vectors, bias))
    assert float(elsh(*arguments)) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_are_the_tempered_divergence():
    generator = np.random.default_rng(0)
    s, t = generator.normal(size=(2, 6, 4)) * 3
    p = softmax(t / 3.0, 1)
    expected = 9.0 * (p * (log_softmax(t / 3.0, 1) - log_softmax(s / 3.0, 1))).sum(1).mean()
    assert float(soft_targets(torch.from_numpy(s), torch.from_numpy(t), 3.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hashes", [1, 8, 13])
def test_packed_bits_are_the_hashes_signs(hashes: int):
    from stillhouse.teachers.cache import TeacherCache

    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 30, 4)).astype(np.float32)
    ids = generator.permutation(100)[:30].astype(np.int64)
    cache = TeacherCache(ids, {"features/": features}, None, folder=None, was_there=True)
    vectors, bias = (
        generator.normal(size=(4, hashes)).astype(np.float32),
        generator.normal(size=hashes).astype(np.float32),
    )
    axes: Any = SimpleNamespace(centre=torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64), scale=2.0)
    bits = Bits(cache, "", axes, torch.from_numpy(vectors), torch.from_numpy(bias))
    features = (features.astype(np.float64) - axes.centre.numpy()).astype(np.float32)
    for epoch in range(3):
        found = bits.take(torch.from_numpy(ids[::-1].copy()), epoch, torch.device("cpu"))
        assert np.array_equal(found.numpy(), (features[epoch % 2, ::-1] / 2.0 @ vectors + bias > 0).astype(np.float32))
