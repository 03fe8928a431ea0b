"""The normalizer: every kind against a float64 textbook reference, whitening on singular batches, refusals."""

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
from support import FakeComposition, assembly_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import Link, Step, StillhouseError, StillhouseWarning
from stillhouse_normalizer import (
    Normalizer,
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


def make_step(links: list[Link]) -> Step:
    composition: Any = FakeComposition([link.name for link in links])
    return Step(
        batch=None,
        ids=torch.arange(2),
        inputs=None,
        targets=None,
        iteration=0,
        epoch=0,
        composition=composition,
        links={link.name: link for link in links},
    )


def pair(d_s: int = 5, d_t: int = 8, rows: int = 4, name: str = "features/a") -> Link:
    return Link(name, torch.randn(rows, d_s), torch.randn(rows, d_t))


def reference(rows: Tensor, kind: str, eps: float, method: str = "cholesky") -> Any:
    """The textbook, in float64 NumPy and SciPy, d x d whatever the shape."""
    x = rows.detach().double().numpy()
    if kind == "layer":
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)
    if kind == "batch":
        return (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + eps)
    if kind == "l2":
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), eps)
    if kind == "rms":
        return x / np.sqrt((x**2).mean() + eps)
    shrunk = (1 - eps) * np.atleast_2d(np.cov(x, rowvar=False)) + eps * np.eye(x.shape[1])
    centred = x - x.mean(0)
    if method == "cholesky":
        return scipy.linalg.solve_triangular(np.linalg.cholesky(shrunk), centred.T, lower=True).T
    return centred @ np.linalg.inv(scipy.linalg.sqrtm(shrunk).real)


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


# --- layouts and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_agree(kind: Any) -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 3, 2)
    tokens = maps.flatten(2).mT
    found = normalize(maps, kind, 1e-3)
    assert found.shape == maps.shape
    assert torch.allclose(found.flatten(2).mT, normalize(tokens, kind, 1e-3), atol=1e-6)
    rows = normalize(tokens.reshape(-1, 6), kind, 1e-3)
    assert torch.allclose(normalize(tokens, kind, 1e-3).reshape(-1, 6), rows, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast(kind: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = normalize(x, kind, 1e-3)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, normalize(x.float(), kind, 1e-3))


# --- the plugin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["teacher", "student", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_transform_rewrites_the_chosen_sides(kind: Any, side: Any) -> None:
    torch.manual_seed(0)
    link = pair()
    student, teacher = link.student.requires_grad_(), link.teacher
    Normalizer(kind=kind, side=side).transform(make_step([link]))
    eps = {"layer": 1e-5, "batch": 1e-5, "whiten": 1e-3, "l2": 1e-12, "rms": 1e-12}[kind]
    for name, before, after in (("student", student, link.student), ("teacher", teacher, link.teacher)):
        if side in (name, "both"):
            assert np.abs(after.detach().double().numpy() - reference(before, kind, eps)).max() < 1e-4
            assert after.requires_grad == (name == "student")
        else:
            assert after is before


def test_links_are_chosen_by_glob() -> None:
    a, b = pair(name="features/a"), pair(name="features/b")
    before = a.teacher
    Normalizer(links="features/b").transform(make_step([a, b]))
    assert a.teacher is before
    assert b.teacher.mean(1).abs().max() < 1e-6


def test_build_makes_no_module() -> None:
    assert Normalizer().build(assembly_of([pair()])) is None


def test_one_row_is_refused_where_statistics_need_two() -> None:
    for kind in ("batch", "whiten"):
        with pytest.raises(StillhouseError, match=r"needs at least 2 rows in a batch, got 1.*larger batch"):
            normalize(torch.randn(1, 4), kind, 1e-3)
        assert normalize(torch.randn(1, 4, 2, 1), kind, 1e-3).isfinite().all(), "two positions are two rows"
        with pytest.raises(StillhouseError, match=r"link 'features/a', teacher.*in a batch, got 1"):
            Normalizer(kind=kind).build(assembly_of([pair()], batch_size=1))
    for kind in ("layer", "l2", "rms"):
        assert normalize(torch.randn(1, 4), kind, 1e-3).isfinite().all()  # type: ignore[arg-type]


def test_a_small_eps_is_refused_where_a_whole_batch_is_singular() -> None:
    wide = Link("features/a", torch.randn(2, 8), torch.randn(2, 64))
    with pytest.raises(StillhouseError) as caught:
        Normalizer(kind="whiten", eps=1e-4, side="both").build(assembly_of([wide], batch_size=64))
    assert len(caught.value.faults) == 1, "the student's 8 channels are fine"
    for part in ("features/a", "teacher", "64 rows of 64 channels", "must be >= 0.001"):
        assert part in str(caught.value)
    Normalizer(kind="whiten", eps=1e-4).build(assembly_of([wide], batch_size=65))
    Normalizer(kind="whiten", eps=1e-3).build(assembly_of([wide], batch_size=8))
    maps = Link("features/a", torch.randn(2, 8, 4, 4), torch.randn(2, 64, 4, 4))
    Normalizer(kind="whiten", eps=1e-4).build(assembly_of([maps], batch_size=5))
    with pytest.raises(StillhouseError, match="64 rows of 64 channels"):
        Normalizer(kind="whiten", eps=1e-4).build(assembly_of([maps], batch_size=4))


def test_bad_input_is_named() -> None:
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(StillhouseError, match="eps"):
            Normalizer(eps=eps)
    with pytest.raises(StillhouseError, match="must be < 1, got"):
        Normalizer(kind="whiten", eps=1.0)
    with pytest.raises(StillhouseError, match=r"must be in \(0, 1\), got"):
        whiten(torch.randn(4, 3), 0.0)
    with pytest.raises(StillhouseError, match=r"must be one of .*, got 'layr'"):
        Normalizer(kind="layr")  # type: ignore[arg-type]
    with pytest.warns(StillhouseWarning, match="whitening = 'zca' has no effect"):
        Normalizer(whitening="zca")
    with pytest.raises(StillhouseError, match="'nothing' matches no link"):
        Normalizer(links="nothing").build(assembly_of([pair()]))
    with pytest.raises(StillhouseError, match="at least 2 channels, got 1"):
        Normalizer().build(assembly_of([pair(d_t=1)]))
    with pytest.raises(StillhouseError, match=r"'features/a', teacher.*must be vectors"):
        Normalizer().build(assembly_of([Link("features/a", torch.randn(4, 2), torch.randn(4))]))


class NoHostRead(TorchDispatchMode):
    """Fails where a tensor's value is read back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), "a tensor's value was read back in the step"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [4, 20])
def test_nothing_in_the_step_reads_a_value_back(kind: Any, rows: int) -> None:
    for whitening in METHODS if kind == "whiten" else METHODS[:1]:
        link = pair(rows=rows)
        link.student.requires_grad_()
        with NoHostRead():
            Normalizer(kind=kind, side="both", whitening=whitening).transform(make_step([link]))  # type: ignore[arg-type]
            link.student.sum().backward()
        assert link.student.isfinite().all()
