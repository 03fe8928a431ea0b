"""The methods' formulas at their edges, against SciPy, NumPy and finite differences in float64, gradients included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.special import log_softmax, softmax, xlogy
from torch import Tensor

from stillhouse_features import distance
from stillhouse_logits import soft_target_divergence
from stillhouse_normalizer import compute_inverse_root, normalize, scale_to_unit_length, whiten
from stillhouse_tcs import soft_targets

QUICK = settings(derandomize=True, deadline=None, max_examples=30)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * scale


# Softened outputs


@QUICK
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 9), st.sampled_from([0.5, 1.0, 4.0, 50.0]), st.data())
def test_classes_that_the_teacher_rules_out_have_probability_0(
    seed: int, b: int, c: int, temperature: float, data: Any
):
    s, t = drawn(seed, b, c, scale=5.0), drawn(seed + 1, b, c, scale=5.0)
    out = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=c, max_size=c), min_size=b, max_size=b)))
    out[np.arange(b), np.arange(b) % c] = False  # each row has a class left
    t[out] = -np.inf
    p, q = softmax(t / temperature, 1), log_softmax(s / temperature, 1)
    expected = temperature**2 * (xlogy(p, p) - p * q).sum(1).mean()
    slope = temperature * (softmax(s / temperature, 1) - p) / b
    for function in (soft_target_divergence, soft_targets):
        student = torch.from_numpy(s).requires_grad_()
        value = function(student, torch.from_numpy(t), temperature)
        value.backward()
        tolerance = 1e-10 if function is soft_target_divergence else 1e-4  # one of them is in float32
        assert float(value.detach()) == pytest.approx(expected, rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(student.grad.numpy(), slope, rtol=0, atol=tolerance * temperature)


def test_a_class_that_both_rule_out_and_one_that_the_student_does():
    both = torch.tensor([[0.3, -math.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    value = soft_target_divergence(both, torch.tensor([[1.0, -math.inf, 0.0]], dtype=torch.float64), 2.0)
    value.backward()
    two = soft_target_divergence(both.detach()[:, [0, 2]], torch.tensor([[1.0, 0.0]], dtype=torch.float64), 2.0)
    assert float(value.detach()) == pytest.approx(float(two), rel=1e-12)
    assert both.grad is not None
    assert bool(both.grad.isfinite().all())
    teacher = torch.tensor([[1.0, -math.inf, 0.0]], dtype=torch.float64, requires_grad=True)
    taught = soft_target_divergence(both, teacher, 2.0)
    (slope,) = torch.autograd.grad(taught, teacher)
    assert float(taught.detach()) == pytest.approx(float(two), rel=1e-12)
    assert bool(slope.isfinite().all())
    lost = soft_target_divergence(torch.tensor([[0.3, -math.inf]]), torch.tensor([[0.3, 0.0]]))
    assert float(lost) == math.inf  # the divergence is infinite, and no NaN


# Length


@QUICK
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 7), st.integers(-12, 4))
def test_rows_of_any_size_have_length_1_and_the_formulas_gradient(seed: int, r: int, c: int, power: int):
    x, g = drawn(seed, r, c, scale=10.0**power), drawn(seed + 1, r, c)
    x[0] = 0.0
    length = np.linalg.norm(x, axis=1, keepdims=True)
    short = length <= 1e-6
    safe = np.where(short, 1.0, length)
    unit = np.where(short, x / 1e-6, x / safe)
    slope = np.where(short, 0.0, (g - unit * (g * unit).sum(1, keepdims=True)) / safe)
    rows = torch.from_numpy(x).requires_grad_()
    found = scale_to_unit_length(rows)
    (found * torch.from_numpy(g)).sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), unit, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rows.grad.numpy(), slope, rtol=1e-9, atol=1e-9 / 10.0 ** min(power, 0))


@pytest.mark.parametrize("kind", ["layer", "batch", "whiten", "l2", "rms"])
@pytest.mark.parametrize("dead", ["one row", "all rows", "one channel"])
def test_dead_features_have_gradients_of_ordinary_size(kind: Any, dead: str):
    """In float32: at most what the variance that is added allows, 1 / sqrt(eps)."""
    x = torch.from_numpy(drawn(0, 6, 4)).float()
    if dead == "one channel":
        x[:, 1] = 0.0
    else:
        x[0 if dead == "one row" else slice(None)] = 0.0
    x.requires_grad_()
    eps = {"layer": 1e-5, "batch": 1e-5, "whiten": 1e-3, "l2": 1e-6, "rms": 1e-12}[kind]
    normalize(x, kind, eps).sum(1).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert float(x.grad.abs().max()) < 1e4


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine"])
def test_a_distance_to_or_from_zero_has_an_ordinary_gradient(kind: Any):
    s, t = (torch.from_numpy(drawn(n, 5, 4)).float() for n in (0, 1))
    s[0], t[1], s[2], t[2] = 0.0, 0.0, 0.0, 0.0
    s.requires_grad_()
    distance(s, t, kind).backward()
    assert s.grad is not None
    assert float(s.grad.abs().max()) < 10


# Whitening


@QUICK
@given(st.integers(0, 2**31), st.integers(2, 7), st.floats(1e-3, 0.5))
def test_the_inverse_root_is_scipys(seed: int, n: int, eps: float):
    a = drawn(seed, n, n + 2)
    gram = a @ a.T / n
    expected = np.linalg.inv(sqrtm((1 - eps) * gram + eps * np.eye(n)).real)
    np.testing.assert_allclose(
        compute_inverse_root(torch.from_numpy(gram), eps).numpy(), expected, rtol=1e-8, atol=1e-8
    )


@QUICK
@given(st.integers(0, 2**31), st.integers(3, 6), st.integers(1, 6), st.sampled_from(["zca", "cholesky"]))
def test_whitening_can_be_differentiated_twice(seed: int, r: int, c: int, method: Any):
    """First and second derivatives against finite differences in float64, with more rows than channels and with fewer."""
    x = torch.from_numpy(drawn(seed, r, c)).requires_grad_()

    def whitened(rows: Tensor) -> Tensor:
        return whiten(rows, 0.05, method)

    assert torch.autograd.gradcheck(whitened, (x,), atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradgradcheck(whitened, (x,), atol=1e-5, rtol=1e-4)


def test_the_second_derivative_exists_at_repeated_eigenvalues_too():
    gram = torch.eye(4, dtype=torch.float64).requires_grad_()

    def symmetric(a: Tensor) -> Tensor:
        return compute_inverse_root((a + a.T) / 2, 0.1)

    assert torch.autograd.gradgradcheck(symmetric, (gram,))


def test_one_derivative_and_the_first_of_two_are_the_same():
    x = torch.from_numpy(drawn(0, 8, 5)).requires_grad_()
    w = torch.from_numpy(drawn(1, 8, 5))
    (plain,) = torch.autograd.grad((whiten(x, 1e-2, "zca") * w).sum(), x)
    (again,) = torch.autograd.grad((whiten(x, 1e-2, "zca") * w).sum(), x, create_graph=True)
    torch.testing.assert_close(plain, again.detach(), rtol=1e-12, atol=1e-12)
