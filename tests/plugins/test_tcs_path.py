"""The coordinate path itself, folded and in any precision, and the head that it stands before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TinyNet
from support.coordinates import moments_of, rows_of
from torch import nn

from stillhouse import StillhouseError
from stillhouse_tcs import Axes, CoordinateHead, find_axes, find_head, fold

# The path


def a_head(d_s: int = 5, d_t: int = 8, k: int = 4, outputs: int = 3, **options: Any) -> CoordinateHead:
    torch.manual_seed(0)
    head = CoordinateHead(d_s, outputs, find_axes(moments_of(rows_of(d=d_t)), "pca", k), **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return head


@pytest.mark.parametrize("d_s", [5, 8])
def test_the_path_is_its_formula(d_s: int):
    head = a_head(d_s).double()
    head.readout.live[1] = 0
    z = torch.randn(7, d_s, dtype=torch.float64)
    A = torch.eye(8).double() if head.lift.weight is None else head.lift.weight
    assert (head.lift.weight is None) == (d_s == 8)
    c = (z @ A.T + head.lift.bias) @ head.project.axes
    logits = (head.readout.mask * head.readout.live * c) @ head.readout.weight.T + head.readout.bias
    torch.testing.assert_close(head(z), logits)


def test_b_starts_at_the_mean_from_which_it_counts_and_the_mask_at_one():
    head = CoordinateHead(5, 3, find_axes(moments_of(rows_of()), "pca", 4))
    assert torch.equal(head.lift.bias, torch.zeros(8))
    assert torch.equal(head.readout.mask, torch.ones(4))
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {"lift.weight", "lift.bias", "readout.weight", "readout.bias"}


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 5), st.sampled_from([1.0, 1e3]))
def test_folding_gives_one_linear_layer(d_s: int, d_t: int, dead: int, size: float):
    k = min(d_t, 6)
    head = a_head(d_s, d_t, k, train_mask=True)
    with torch.no_grad():
        head.readout.weight *= size
    head.readout.live[:dead] = 0
    z = torch.randn(50, d_s) * 3
    logits, got = head(z).detach(), fold(head, d_s)(z).detach()
    assert (logits - got).abs().max() <= 1e-5 * max(1.0, float(logits.abs().max()))


def test_it_is_float32_under_autocast():
    head = a_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = nn.Linear(6, 5)(torch.randn(4, 6))
        assert z.dtype == torch.bfloat16
        assert torch.equal(head(z), head(z.float()))
        assert head(z).dtype == torch.float32


@pytest.mark.parametrize("d_s", [5, 8])
def test_a_state_of_another_number_of_axes_is_loaded(d_s: int):
    saved = a_head(d_s, 8, 4)
    other = a_head(8 if d_s == 5 else 5, 8, 6)
    parameters = dict(other.named_parameters())
    other.load_state_dict(saved.state_dict())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in saved.state_dict().items())
    kept = {k: p for k, p in other.named_parameters() if k != "lift.weight"}
    assert all(p is parameters[k] for k, p in kept.items())  # what an optimizer holds stays what it was
    z = torch.randn(3, d_s)
    assert torch.equal(other(z), saved(z))


def test_with_cross_entropy_alone_pca_and_random_axes_are_the_same_model():
    """A and b may be turned along with the axes: 200 steps of SGD from turned starts agree to 1e-10 in float64."""
    torch.manual_seed(1)
    d_s, d_t, k = 6, 10, 5
    principal = find_axes(moments_of(rows_of(d=d_t)), "pca", k)
    square = torch.linalg.qr(torch.randn(d_t, d_t, dtype=torch.float64))[0]
    turned = Axes(
        mean=principal.mean,
        vectors=square @ principal.vectors,
        scale=principal.scale,
        spectrum=principal.spectrum,
        rank=principal.rank,
        explained=0.5,
        energy=1.0,
        kind="random",
    )
    one, two = (CoordinateHead(d_s, 3, axes).double() for axes in (principal, turned))
    for head, axes in ((one, principal), (two, turned)):
        head.project.axes = axes.vectors.clone()
    with torch.no_grad():
        two.readout.load_state_dict(one.readout.state_dict())
        two.lift.weight.copy_(square @ one.lift.weight)
        two.lift.bias.copy_(square @ one.lift.bias)
    bodies = [nn.Sequential(nn.Linear(4, d_s), nn.Tanh()).double() for _ in range(2)]
    bodies[1].load_state_dict(bodies[0].state_dict())
    x, y = torch.randn(200, 4, dtype=torch.float64), torch.randint(3, (200,))
    losses = []
    for head, body in zip((one, two), bodies, strict=True):
        optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.3, momentum=0.9)
        for step in range(200):
            batch = slice(step % 10 * 20, step % 10 * 20 + 20)
            loss = nn.functional.cross_entropy(_logits(head, body(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 1.0
    with torch.no_grad():
        apart = _logits(one, bodies[0](x)) - _logits(two, bodies[1](x))
    assert apart.abs().max() < 1e-10


def _logits(head: CoordinateHead, z: torch.Tensor) -> torch.Tensor:
    return head(z)


# Finding the head


class Two(nn.Module):
    """Two layers of three outputs, the convolution last."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3, bias=bias), nn.Linear(4, 7)
        self.conv = nn.Conv2d(1, 3, 1)


def test_the_head_is_the_last_linear_layer_of_the_tasks_outputs():
    assert find_head(TinyNet(), 3) == "head"
    assert find_head(Two(), 3) == "first"
    assert find_head(Two(), 3, "last") == "last"
    assert find_head(nn.Linear(4, 3), 3) == ""


@pytest.mark.parametrize(
    ("outputs", "name", "said"),
    [
        (5, "", r"needs a linear layer of 5 outputs \(linear layers: first \(4 to 3\), last \(4 to 7\)\)"),
        (3, "conv", r"'conv' must be linear, got Conv2d \(linear layers: first"),
        (3, "conf", "'conf' is not in the student"),
    ],
)
def test_a_head_that_is_not_linear_or_not_there_is_refused_with_the_candidates(outputs: int, name: str, said: str):
    with pytest.raises(StillhouseError, match=said):
        find_head(Two(), outputs, name)


def test_a_head_without_bias_is_refused():
    with pytest.raises(StillhouseError, match="'first' needs a bias"):
        find_head(Two(bias=False), 3)
    with pytest.raises(StillhouseError, match="needs a linear layer"):
        find_head(nn.Conv2d(1, 3, 1), 3)
