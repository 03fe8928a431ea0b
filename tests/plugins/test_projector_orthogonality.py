"""Orthogonality that lasts: retraction and parametrised maps through steps, weight decay and broken weights."""

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
from support.projections import built, make_step, pair, weight_of
from torch import Tensor, nn

from stillhouse_projector import Projector, Projectors, draw_haar, make_map, measure_orthogonality_error, retract

torch.set_num_threads(1)

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
ORTHOGONAL_MAPS = ("retraction", "matrix_exp", "cayley")


def train(module: nn.Module, d_in: int, d_out: int, *, lr: float, steps: int, weight_decay: float = 0.05) -> None:
    """AdamW with weight decay on the projection as well, on rows that another isometry and noise have mapped."""
    generator = torch.Generator().manual_seed(1)
    target = draw_haar(max(d_out, d_in), min(d_out, d_in))
    target = target if d_out >= d_in else target.mT
    plugin = Projector(map="retraction")
    step = make_step(Projectors({"a": module}, {"a": d_in}), [])
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        z = torch.randn(16, d_in, generator=generator)
        wanted = z @ target.mT + 0.3 * torch.randn(16, d_out, generator=generator)
        optimizer.zero_grad()
        (module(z) - wanted).square().mean().backward()
        optimizer.step()
        plugin.optimizer_stepped(step)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_retraction_stays_orthogonal_through_5000_adamw_steps_with_weight_decay_on_it(lr: float) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", 12, 20)
    train(module, 12, 20, lr=lr, steps=5000)
    assert measure_orthogonality_error(weight_of(module)) < 2e-7


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_parametrised_maps_stay_orthogonal_with_weight_decay_on_them(orthogonal_map: Any, lr: float) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", 8, 12, orthogonal_map=orthogonal_map)
    train(module, 8, 12, lr=lr, steps=400)
    assert measure_orthogonality_error(weight_of(module)) < 1e-5


@pytest.mark.parametrize(("d_in", "d_out"), [(5, 5), (5, 9), (9, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize("orthogonal_map", ORTHOGONAL_MAPS)
def test_no_map_collapses_under_weight_decay(orthogonal_map: Any, d_in: int, d_out: int) -> None:
    """torch's default map (Householder) is exactly zero after one AdamW step with weight decay."""
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=orthogonal_map)
    start = weight_of(module).clone()
    train(module, d_in, d_out, lr=1e-2, steps=20, weight_decay=0.5)
    assert measure_orthogonality_error(weight_of(module)) < 1e-5
    if min(d_in, d_out) > 1:
        assert not torch.allclose(weight_of(module), start, atol=1e-3), "it does learn"
    student = torch.randn(8, d_in, requires_grad=True)
    (module(student) - torch.randn(8, d_out)).square().sum().backward()
    assert student.grad is not None
    assert student.grad.norm() > 0.1


def test_the_collapse_this_guards_against_is_real() -> None:
    linear: Any = nn.utils.parametrizations.orthogonal(nn.Linear(4, 6, bias=False))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=0.05)
    (linear(torch.randn(8, 4)) - torch.randn(8, 6)).square().mean().backward()
    optimizer.step()
    assert linear.weight.abs().max() == 0, "torch has changed: the comment in maps.py is out of date"


def retraction_reference(weight: Tensor) -> Tensor:
    """QR with positive diagonal, by SciPy in float64."""
    w = weight.double().numpy()
    tall = w if w.shape[0] >= w.shape[1] else w.T
    q, r = scipy.linalg.qr(tall, mode="economic")
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return torch.from_numpy(q if w.shape[0] >= w.shape[1] else q.T)


@QUICK
@given(d_out=st.integers(1, 24), d_in=st.integers(1, 24), size=st.floats(1e-4, 10.0), seed=st.integers(0, 2**20))
def test_retraction_is_the_qr_retraction(d_out: int, d_in: int, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    moved = draw_haar(d_out, d_in) + size * torch.randn(d_out, d_in)
    back = retract(moved)
    assert back.shape == moved.shape
    assert back.dtype == torch.float32
    assert measure_orthogonality_error(back) < 2e-7
    assert torch.allclose(back.double(), retraction_reference(moved), atol=2e-7)


@pytest.mark.parametrize(("d_out", "d_in"), [(400, 390), (192, 400), (193, 193)])
def test_retraction_of_weights_wider_than_a_block(d_out: int, d_in: int) -> None:
    torch.manual_seed(0)
    moved = nn.Parameter(draw_haar(d_out, d_in) + 1e-3 * torch.randn(d_out, d_in))
    back = retract(moved)
    assert not back.requires_grad
    assert torch.allclose(back.double(), retraction_reference(moved.detach()), atol=2e-7)


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
@pytest.mark.parametrize(("d_out", "d_in"), [(40, 24), (24, 24), (24, 40)])
def test_retraction_after_a_wild_step(condition: float, d_out: int, d_in: int) -> None:
    torch.manual_seed(0)
    k = min(d_out, d_in)
    spectrum = torch.logspace(0, -np.log10(condition), k) * 7.0
    wild = draw_haar(d_out, k) * spectrum @ draw_haar(k, d_in)
    assert measure_orthogonality_error(retract(wild)) < 2e-6


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (5, 5)])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 1e15])
def test_retraction_of_singular_weights_is_finite_and_mended_by_the_next(shape: tuple[int, int], size: float) -> None:
    lost = retract(size * torch.ones(shape))
    assert lost.isfinite().all()
    assert torch.linalg.svdvals(lost).max() < 1 + 1e-6
    torch.manual_seed(0)
    assert measure_orthogonality_error(retract(lost + 1e-2 * torch.randn(shape))) < 1e-6


def test_retraction_does_not_hide_a_broken_run() -> None:
    broken = draw_haar(6, 3)
    broken[2, 1] = torch.nan
    assert retract(broken).isnan().any()


def test_a_weight_on_the_manifold_is_a_fixed_point() -> None:
    torch.manual_seed(0)
    weight = draw_haar(20, 12)
    again = weight
    for _ in range(1000):
        again = retract(again)
    assert torch.allclose(again, weight, rtol=0, atol=3e-7)
    assert measure_orthogonality_error(again) < 2e-7


def test_an_unused_projection_keeps_its_weight() -> None:
    """No gradient (weight 0): the optimizer skips the parameter, the hook still runs."""
    link = pair(5, 8)
    plugin = Projector()
    module = built(plugin, link)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.05)
    for _ in range(10):
        optimizer.step()
        plugin.optimizer_stepped(make_step(module, [link]))
    for key, value in module.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-6)


def test_haar_is_seeded_and_uniform() -> None:
    torch.manual_seed(3)
    first = draw_haar(6, 4)
    torch.manual_seed(3)
    assert torch.equal(first, draw_haar(6, 4))
    draws = torch.stack([draw_haar(3, 2) for _ in range(4000)])
    assert torch.allclose(draws.mean(0), torch.zeros(3, 2), atol=0.04), "signs are free"
    assert torch.allclose(draws.square().mean(0), torch.full((3, 2), 1 / 3), atol=0.02), "no channel is preferred"
