"""The normalizer: every kind and its gradients against a float64 textbook reference, whitening on singular batches."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.normalizations import reference
from torch import Tensor

from stillhouse_normalizer import (
    compute_inverse_root,
    normalize,
    scale_to_unit_length,
    scale_to_unit_rms,
    standardise_channels,
    standardise_rows,
    whiten,
)

torch.set_num_threads(1)

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
KINDS = ("layer", "batch", "whiten", "l2", "rms")
METHODS = ("cholesky", "zca")


# --- values --------------------------------------------------------------------------------------------------------


@QUICK
@given(
    count=st.integers(2, 24),
    width=st.integers(2, 24),
    shift=st.floats(-10, 10),
    scale=st.floats(0.1, 10),
    kind=st.sampled_from(KINDS),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 2**20),
)
def test_values_are_the_textbooks(
    count: int, width: int, shift: float, scale: float, kind: Any, method: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    rows = torch.randn(count, width) * scale + shift
    eps = 1e-3 if kind == "whiten" else 1e-5
    found = normalize(rows, kind, eps, method)
    assert found.dtype == torch.float32
    assert np.abs(found.double().numpy() - reference(rows, kind, eps, method)).max() < 1e-5 * (1 + abs(shift) / scale)


@pytest.mark.parametrize("method", METHODS)
def test_whitened_covariance_is_the_identity(method: Any) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 12) @ torch.randn(12, 12) + 5
    white = whiten(rows, 1e-12, method)
    assert torch.allclose(white.mT @ white / 199, torch.eye(12).double(), atol=1e-8)
    assert white.mean(0).abs().max() < 1e-10


def test_cholesky_and_zca_differ_by_a_rotation() -> None:
    torch.manual_seed(0)
    rows = torch.randn(9, 12) @ torch.randn(12, 12)
    a, b = whiten(rows, 1e-3, "cholesky"), whiten(rows, 1e-3, "zca")
    assert torch.allclose(a @ a.mT, b @ b.mT, atol=1e-9)
    assert not torch.allclose(a, b, atol=1e-2)


def test_shrinkage_formula() -> None:
    """Along an eigenvector of variance v the whitened variance is v / ((1 - eps) v + eps)."""
    rows = torch.tensor([[3.0, 0.5], [-3.0, 0.5], [3.0, -0.5], [-3.0, -0.5]]).double()
    v = rows.var(0)
    for method in METHODS:
        white = whiten(rows, 0.2, method)  # type: ignore[arg-type]
        assert torch.allclose(white.var(0), v / (0.8 * v + 0.2), atol=1e-12)


@QUICK
@given(count=st.integers(2, 12), width=st.integers(1, 12), seed=st.integers(0, 2**20))
def test_zca_is_the_same_by_either_gram_matrix(count: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(count, width).double()
    x = x - x.mean(0)
    small, large = (
        compute_inverse_root(x @ x.mT / (count - 1), 1e-3) @ x,
        x @ compute_inverse_root(x.mT @ x / (count - 1), 1e-3),
    )
    assert torch.allclose(small, large, atol=1e-9)


def test_singular_batches_raise_a_small_eps() -> None:
    """A last, smaller batch may be singular where whole batches are not: it is shrunk by 1e-3, not refused."""
    torch.manual_seed(0)
    small, large = torch.randn(8, 8), torch.randn(9, 8)
    for method in METHODS:
        assert torch.equal(whiten(small, 1e-6, method), whiten(small, 1e-3, method))  # type: ignore[arg-type]
        assert not torch.equal(whiten(large, 1e-6, method), whiten(large, 1e-3, method))  # type: ignore[arg-type]


def test_constant_channels_and_zero_rows_become_zero() -> None:
    rows = torch.randn(6, 4)
    rows[:, 1] = 3.0
    assert standardise_channels(rows)[:, 1].abs().max() == 0
    for method in METHODS:
        assert whiten(rows, 1e-3, method)[:, 1].abs().max() < 1e-12  # type: ignore[arg-type]
    assert torch.equal(scale_to_unit_length(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.equal(scale_to_unit_rms(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.equal(standardise_rows(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


# --- gradients -----------------------------------------------------------------------------------------------------


def features(case: str, count: int, width: int) -> Tensor:
    """Rows whose covariance is generic, has repeated eigenvalues, or is of low rank."""
    if case == "repeated":  # +-e_i: all eigenvalues are equal where 2 d rows fit, in pairs or zero where not
        eye = torch.eye(width).double()
        return torch.cat([eye, -eye]).repeat(1 + count // (2 * width), 1)[:count]
    if case == "zero":
        return torch.zeros(count, width).double()
    if case == "low rank":
        return torch.randn(count, 1).double() @ torch.randn(1, width).double()
    return torch.randn(count, width).double()


@QUICK
@given(
    case=st.sampled_from(["generic", "repeated", "zero", "low rank"]),
    count=st.integers(2, 10),
    width=st.integers(2, 10),
    kind=st.sampled_from(KINDS),
    method=st.sampled_from(METHODS),
    scale=st.sampled_from([1e-6, 1.0, 1e9]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_values_and_gradients_are_finite(
    case: str, count: int, width: int, kind: Any, method: Any, scale: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows = (features(case, count, width) * scale).to(dtype).requires_grad_()
    found = normalize(rows, kind, 1e-3 if kind == "whiten" else 1e-5, method)
    (found * torch.randn(found.shape)).sum().backward()
    assert rows.grad is not None
    assert found.isfinite().all()
    assert rows.grad.isfinite().all()


@QUICK
@given(seed=st.integers(0, 2**20), copies=st.integers(2, 6))
def test_cholesky_survives_variances_beyond_rounding(seed: int, copies: int) -> None:
    """Equal channels of a variance beside which eps is lost: the pivots after the first would be 0 or below."""
    torch.manual_seed(seed)
    rows = (1e9 * torch.randn(40, 1).double()).repeat(1, copies).requires_grad_()
    white = whiten(rows, 1e-3, "cholesky")
    white.square().sum().backward()
    assert white.isfinite().all()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert abs(white.var(0).sum().item() - 1 / 0.999) < 1e-4, "one direction, of variance 1 / (1 - eps)"


@pytest.mark.parametrize(("count", "width"), [(7, 3), (3, 5), (4, 4), (2, 3)])
@pytest.mark.parametrize("case", ["generic", "repeated", "low rank"])
@pytest.mark.parametrize(("kind", "method"), [*((k, "cholesky") for k in KINDS), ("whiten", "zca")])
def test_gradients_are_right(kind: Any, method: Any, case: str, count: int, width: int) -> None:
    torch.manual_seed(0)
    rows = features(case, count, width).requires_grad_()
    eps = 0.1 if kind == "whiten" else 1e-2
    assert torch.autograd.gradcheck(lambda x: normalize(x, kind, eps, method), (rows,))


@pytest.mark.parametrize("case", ["generic", "repeated", "zero"])
def test_gradient_of_the_inverse_root_is_the_frechet_derivative(case: str) -> None:
    """d trace(M S^{-1/2}) along E, by the derivative of the exact square root: L solves S^{1/2} L + L S^{1/2} = E."""
    torch.manual_seed(0)
    eps, x, m = 0.05, features(case, 6, 4), torch.randn(4, 4).double()
    gram = (x.mT @ x).requires_grad_()
    (compute_inverse_root(gram, eps) * m).sum().backward()
    assert gram.grad is not None
    direction = torch.randn(4, 4).double()
    direction = direction + direction.mT
    shrunk = (1 - eps) * gram.detach().numpy() + eps * np.eye(4)
    root = scipy.linalg.sqrtm(shrunk).real
    moved = scipy.linalg.solve_sylvester(root, root, (1 - eps) * direction.numpy())
    expected = -np.sum(m.numpy() * (np.linalg.inv(root) @ moved @ np.linalg.inv(root)))
    assert abs((gram.grad * direction).sum().item() - expected) < 1e-8 * (1 + abs(expected))


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_features_are_passed_on_not_raised(method: Any) -> None:
    for rows in (torch.randn(4, 6), torch.randn(9, 6)):
        rows[0, 0] = torch.inf
        assert whiten(rows, 1e-3, method).isnan().any()
