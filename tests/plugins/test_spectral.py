"""The tail energy against SciPy's SVD in float64, with gradients, and the warm basis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse_spectral import basis_width, follow, tail_energy, to_feature_rows, warm_tail_energy

torch.set_num_threads(1)
quick = settings(derandomize=True, deadline=None, max_examples=30)
Array = np.ndarray[Any, np.dtype[np.float64]]


def _reference(z: Tensor, rank: int) -> tuple[float, Array]:
    """SciPy's SVD in float64: the mean of the squared tail, and its textbook gradient 2 U S V^T past ``rank``."""
    array: Array = z.detach().double().numpy()
    u, s, vh = scipy.linalg.svd(array, full_matrices=False)
    return float((s[rank:] ** 2).sum() / array.size), 2.0 * (u[:, rank:] * s[rank:]) @ vh[rank:] / array.size


def _grad(function: Any, z: Tensor) -> tuple[float, Tensor]:
    x = z.detach().clone().requires_grad_()
    value = function(x)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, x)
    return float(value.detach()), gradient


def _with_spectrum(rows: int, width: int, sigma: Tensor, seed: int = 0) -> Tensor:
    """A float32 matrix of about these singular values."""
    g = torch.Generator().manual_seed(seed)
    n = min(rows, width)
    u = torch.linalg.qr(torch.randn(rows, n, generator=g, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(width, n, generator=g, dtype=torch.float64))[0]
    z: Tensor = ((u * sigma[:n].double()) @ v.T).float()
    return z


def _error(got: Tensor, expected: Array) -> float:
    return float(np.linalg.norm(got.double().numpy() - expected) / np.linalg.norm(expected))


# ---- exact ----


@quick
@given(rows=st.integers(1, 20), width=st.integers(1, 20), rank=st.integers(0, 22), seed=st.integers(0, 999))
def test_value_and_gradient_are_the_svds(rows: int, width: int, rank: int, seed: int) -> None:
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected, gradient = _reference(z, rank)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        value, got = _grad(lambda x: tail_energy(x, rank), z.to(dtype))
        assert value == pytest.approx(expected, rel=tolerance, abs=1e-12)
        np.testing.assert_allclose(got.double().numpy(), gradient, atol=tolerance)
        if rank >= min(rows, width):
            assert value == 0.0
            assert not got.any()


@quick
@given(shape=st.sampled_from([(7, 4), (4, 7), (5, 5)]), rank=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, int], rank: int, seed: int) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tail_energy(x, rank), z)


_index = torch.arange(48)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (48, 48)])
@pytest.mark.parametrize(
    "sigma",
    [
        pytest.param(torch.exp(-_index / 4), id="exponential"),
        pytest.param(1.0 / (1.0 + _index), id="polynomial"),
        pytest.param(1.0 - 0.001 * _index, id="nearly flat"),
        pytest.param(torch.where(_index < 8, 1.0, 1e-5) * torch.exp(-_index / 40), id="a tail of 1e-10"),
    ],
)
def test_gradients_in_float32_are_right_to_1e_5_whatever_the_spectrum(shape: tuple[int, int], sigma: Tensor) -> None:
    z = _with_spectrum(*shape, sigma)
    value, gradient = _grad(lambda x: tail_energy(x, 8), z)
    expected, reference = _reference(z, 8)
    assert value == pytest.approx(expected, rel=1e-5)
    assert _error(gradient, reference) < 1e-5


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_matrices_give_finite_values_and_gradients(
    shape: tuple[int, int], rank: int, dtype: torch.dtype
) -> None:
    row = torch.arange(1.0, shape[1] + 1.0, dtype=dtype)
    for name, z in {
        "zero": torch.zeros(shape, dtype=dtype),
        "rank one": torch.ones(shape[0], 1, dtype=dtype) * row,
        "repeated": torch.eye(*shape, dtype=dtype) * 3.0,
        "huge": torch.eye(*shape, dtype=dtype) * 1e15,
    }.items():
        value, gradient = _grad(lambda x: tail_energy(x, rank), z)
        assert value == pytest.approx(_reference(z, rank)[0], rel=1e-5, abs=1e-10), name
        assert bool(gradient.isfinite().all()), name
        # Any choice among equal directions is a subgradient: its length is what the tail's energy says.
        length = 2.0 * (value / z.numel()) ** 0.5
        assert float(gradient.norm()) == pytest.approx(length, rel=1e-4, abs=1e-5), name


def test_rank_zero_is_the_mean_square() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    value, gradient = _grad(lambda x: tail_energy(x, 0), z)
    assert value == pytest.approx(float(np.mean(z.double().numpy() ** 2)), rel=1e-6)
    torch.testing.assert_close(gradient, 2.0 * z / 24)


def test_what_is_not_finite_reaches_the_loss_and_raises_nothing() -> None:
    z = torch.ones(5, 3)
    for bad in (float("nan"), float("inf")):
        z[2, 1] = bad
        for rank in (0, 1):
            assert not tail_energy(z, rank).isfinite()


def test_the_outer_gradient_scales_it_and_a_second_one_is_refused() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (once,) = torch.autograd.grad(tail_energy(z, 1), z)
    (thrice,) = torch.autograd.grad(3.0 * tail_energy(z, 1), z)
    torch.testing.assert_close(thrice, 3.0 * once)
    with pytest.raises(StillhouseError, match="no second derivative"):
        torch.autograd.grad(tail_energy(z, 1), z, create_graph=True)


def test_half_precision_is_computed_in_float64_and_gives_float32() -> None:
    z = _with_spectrum(32, 16, torch.exp(-_index / 2)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = _grad(lambda x: tail_energy(x, 4), z)
        assert tail_energy(z, 4).dtype == torch.float32
    expected, reference = _reference(z, 4)
    assert value == pytest.approx(expected, rel=1e-6)
    assert gradient.dtype == torch.bfloat16
    assert _error(gradient.float(), reference) < 1e-2


@pytest.mark.parametrize("z", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 3, dtype=torch.int64)])
def test_what_is_no_feature_matrix_is_refused(z: Tensor) -> None:
    with pytest.raises(StillhouseError, match="must be a floating-point matrix"):
        tail_energy(z, 1)


# ---- rows ----


def test_rows_are_samples_or_positions() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(to_feature_rows(x).numpy(), x.double().numpy().mean((2, 3)), atol=1e-6)
    assert torch.equal(to_feature_rows(x, "none")[7], x[0, :, 1, 2])
    tokens = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(to_feature_rows(tokens), to_feature_rows(x))
    assert torch.equal(to_feature_rows(tokens, "none"), to_feature_rows(x, "none"))
    assert torch.equal(to_feature_rows(x[:, :, 0, 0]), x[:, :, 0, 0])
    assert to_feature_rows(x.half()).dtype == to_feature_rows(x.half(), "none").dtype == torch.float32
    with pytest.raises(StillhouseError, match="must be vectors"):
        to_feature_rows(x[0, 0, 0])


# ---- warm ----


def _orthonormal(basis: Tensor) -> float:
    return float((basis.T @ basis - torch.eye(basis.shape[1])).abs().max())


def test_following_one_batch_converges_to_the_exact_term() -> None:
    z = _with_spectrum(64, 40, torch.exp(-_index / 3))
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, basis_width(40, 4)))[0]
    for _ in range(12):
        basis = follow(z, basis)
    value, gradient = _grad(lambda x: warm_tail_energy(x, basis, 4), z)
    expected, reference = _reference(z, 4)
    assert value == pytest.approx(expected, rel=1e-4)
    assert _error(gradient, reference) < 1e-4
    assert _orthonormal(basis) < 1e-5


def test_fresh_batches_of_a_decaying_spectrum_are_followed() -> None:
    g = torch.Generator().manual_seed(0)
    mix = _with_spectrum(48, 48, torch.exp(-_index / 3))
    start = basis = torch.linalg.qr(torch.randn(48, basis_width(48, 8), generator=g))[0]
    followed: list[float] = []
    fixed: list[float] = []
    for _ in range(15):
        z = torch.randn(64, 48, generator=g) @ mix
        mix = mix + 1e-3 * torch.randn(48, 48, generator=g) * mix.std()
        basis = follow(z, basis)
        reference = _reference(z, 8)[1]
        for errors, b in ((followed, basis), (fixed, start)):
            errors.append(_error(_grad(lambda x, b=b: warm_tail_energy(x, b, 8), z)[1], reference))
    assert max(followed[3:]) < 0.01
    assert min(fixed) > 1.0


@quick
@given(rows=st.integers(1, 12), width=st.integers(2, 12), rank=st.integers(1, 5), seed=st.integers(0, 999))
def test_the_warm_term_bounds_the_exact_one_from_above(rows: int, width: int, rank: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rank = min(rank, width - 1)
    z = torch.randn(rows, width, generator=g)
    basis = follow(z, torch.linalg.qr(torch.randn(width, basis_width(width, rank), generator=g))[0])
    value, gradient = _grad(lambda x: warm_tail_energy(x, basis, rank), z)
    assert value >= _reference(z, rank)[0] - 1e-6
    if rank >= min(rows, width):
        assert value == 0.0
        assert not gradient.any()
    else:
        held = z.double().numpy() @ (np.eye(width) - (kept := basis[:, :rank].double().numpy()) @ kept.T)
        np.testing.assert_allclose(gradient.double().numpy(), 2.0 * held / z.numel(), atol=1e-6)
    assert _orthonormal(basis) < 1e-5


def test_zero_and_broken_batches_leave_the_basis_and_poor_ones_keep_it_orthonormal() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(10, 6))[0]
    assert torch.equal(follow(torch.zeros(8, 10), basis), basis)
    for bad in (float("nan"), float("inf")):
        assert torch.equal(follow(torch.full((8, 10), bad), basis), basis)
    for poor in (torch.ones(8, 10), torch.ones(1, 10), torch.eye(10) * 5.0, torch.full((8, 10), 1e-12)):
        new = follow(poor, basis)
        assert bool(new.isfinite().all())
        assert _orthonormal(new) < 1e-5
        assert bool(warm_tail_energy(poor, new, 2).isfinite())


def test_a_basis_that_does_not_fit_is_refused() -> None:
    with pytest.raises(StillhouseError, match=r"a basis must be \(4, K\) with K from . to 4, got \(5, 2\)"):
        warm_tail_energy(torch.zeros(3, 4), torch.zeros(5, 2), 1)
    with pytest.raises(StillhouseError, match="K from 3"):
        warm_tail_energy(torch.zeros(3, 4), torch.zeros(4, 2), 3)
    with pytest.raises(StillhouseError, match="rank: must be a whole number >= 0, got -1"):
        tail_energy(torch.zeros(3, 4), -1)
