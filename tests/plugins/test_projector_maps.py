"""The projector's maps and their gradients against textbook formulas, in every layout and precision."""

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
from support.projections import weight_of
from torch import Tensor, nn

from stillhouse_projector import Projectors, make_map
from stillhouse_projector.projectors import make_key

torch.set_num_threads(1)

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
ORTHOGONAL_MAPS = ("retraction", "matrix_exp", "cayley")
SHAPES = {"vectors": (4, 6), "tokens": (4, 5, 6), "maps": (4, 6, 3, 2)}


# --- the maps ------------------------------------------------------------------------------------------------------


@QUICK
@given(
    d_s=st.integers(1, 12), extra=st.integers(0, 12), seed=st.integers(0, 2**20), which=st.sampled_from(ORTHOGONAL_MAPS)
)
def test_inner_products_of_the_student_are_kept(d_s: int, extra: int, seed: int, which: Any) -> None:
    torch.manual_seed(seed)
    z = torch.randn(7, d_s)
    mapped = make_map("orthogonal", d_s, d_s + extra, orthogonal_map=which)(z)
    assert torch.allclose(mapped @ mapped.mT, z @ z.mT, atol=2e-5 * d_s)


@pytest.mark.parametrize(("d_in", "d_out"), [(3, 3), (3, 5), (5, 3)])
@pytest.mark.parametrize("which", ["matrix_exp", "cayley"])
def test_parametrised_maps_are_the_textbook_ones(which: Any, d_in: int, d_out: int) -> None:
    """P = first columns of Q exp(A), or of Q (I + A/2)(I - A/2)^{-1}, with A skew, here by SciPy in float64."""
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=which)
    state = module.state_dict()
    free, base = state["parametrizations.weight.original"], state["parametrizations.weight.0.base"].double().numpy()
    with torch.no_grad():
        free.copy_(torch.randn(free.shape))
    x = free.double().numpy()
    x = x if d_out >= d_in else x.T
    n, k = x.shape
    padded = np.zeros((n, n))
    padded[:, :k] = np.tril(x, -1)
    a = padded - padded.T
    eye = np.eye(n)
    full = scipy.linalg.expm(a) if which == "matrix_exp" else (eye + a / 2) @ np.linalg.inv(eye - a / 2)
    expected = base @ full[:, :k]
    expected = expected if d_out >= d_in else expected.T
    assert np.abs(weight_of(module).double().numpy() - expected).max() < 2e-6


@QUICK
@given(d_in=st.integers(1, 8), d_out=st.integers(1, 8), rows=st.integers(1, 9), seed=st.integers(0, 2**20))
def test_gradients_of_the_mean_squared_error(d_in: int, d_out: int, rows: int, seed: int) -> None:
    """L = ||Z W^T - T||^2 / n: dL/dZ = 2 (Z W^T - T) W / n and dL/dW = 2 (Z W^T - T)^T Z / n, in float64."""
    torch.manual_seed(seed)
    for kind in ("linear", "orthogonal"):
        module = Projectors({"a": make_map(kind, d_in, d_out)}, {"a": d_in})
        z, target = torch.randn(rows, d_in, requires_grad=True), torch.randn(rows, d_out)
        (module("a", z) - target).square().mean().backward()
        w = next(module.parameters())
        residual = 2 * (z.detach().double() @ w.detach().double().mT - target.double()) / target.numel()
        assert z.grad is not None
        assert w.grad is not None
        assert torch.allclose(z.grad.double(), residual @ w.detach().double(), atol=1e-6)
        assert torch.allclose(w.grad.double(), residual.mT @ z.detach().double(), atol=1e-5)


@pytest.mark.parametrize("which", ["matrix_exp", "cayley"])
@pytest.mark.parametrize(("d_in", "d_out"), [(3, 4), (3, 3), (4, 3)])
def test_gradients_of_the_parametrised_maps(which: Any, d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=which).double()
    free = module.state_dict()["parametrizations.weight.original"].clone() + 0.3 * torch.randn(d_out, d_in).double()
    z = torch.randn(4, d_in, dtype=torch.float64, requires_grad=True)

    def mapped(z: Tensor, free: Tensor) -> Tensor:
        result = torch.func.functional_call(module, {"parametrizations.weight.original": free}, (z,))
        assert isinstance(result, Tensor)
        return result

    assert torch.autograd.gradcheck(mapped, (z, free.requires_grad_()))


def test_mlp_is_two_linear_layers_with_relu() -> None:
    torch.manual_seed(0)
    module = make_map("mlp", 4, 3, hidden=7)
    w1, b1, w2, b2 = (p.detach().double() for p in module.parameters())
    assert w1.shape == (7, 4)
    z = torch.randn(5, 4)
    expected = (z.double() @ w1.mT + b1).clamp_min(0) @ w2.mT + b2
    assert torch.allclose(module(z).double(), expected, atol=1e-6)
    assert next(make_map("mlp", 4, 9).parameters()).shape == (9, 4), "the larger width when left open"


def test_linear_and_orthogonal_maps_have_no_bias() -> None:
    for kind in ("linear", "orthogonal"):
        assert torch.equal(make_map(kind, 4, 6)(torch.zeros(2, 4)), torch.zeros(2, 6))


# --- layouts and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
def test_layouts_agree(kind: Any) -> None:
    torch.manual_seed(0)
    project = Projectors({"a": make_map(kind, 6, 8)}, {"a": 6})
    maps = torch.randn(4, 6, 3, 2)
    tokens = maps.flatten(2).mT
    mapped = project("a", maps)
    assert mapped.shape == (4, 8, 3, 2)
    assert torch.allclose(mapped.flatten(2).mT, project("a", tokens), atol=1e-6)
    assert torch.allclose(project("a", tokens)[:, 4], project("a", tokens[:, 4]), atol=1e-6)
    if kind != "mlp":
        convolved = nn.functional.conv2d(maps, weight_of(project.maps[make_key("a")])[:, :, None, None])
        assert torch.allclose(mapped, convolved, atol=1e-6), "the 1x1 convolution"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("which", ORTHOGONAL_MAPS)
def test_float32_under_autocast(shape: tuple[int, ...], which: Any) -> None:
    torch.manual_seed(0)
    project = Projectors({"a": make_map("orthogonal", 6, 8, orthogonal_map=which)}, {"a": 6})
    x = torch.randn(shape).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = project("a", x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, project("a", x.float()))
