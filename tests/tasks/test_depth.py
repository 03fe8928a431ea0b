"""Depth: losses and gradients against float64 over chosen pixels, metrics against NumPy, holes left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.task_support import cut, info, measured

from stillhouse import StillhouseError
from stillhouse.config.structure import structure
from stillhouse.tasks.depth import Depth

DATA = info(0, "depth")


def metres(x: torch.Tensor, output: str) -> torch.Tensor:
    """A model's output as metres."""
    return {"softplus": torch.log1p(x.exp()), "log": x.exp(), "metres": x}[output]


def reference(x: torch.Tensor, target: torch.Tensor, kind: str, lam: float, output: str) -> torch.Tensor:
    """The losses as published, over pixels chosen with a boolean index, float64."""
    found, total, n = metres(x, output), x.sum() * 0, 0
    for f, t in zip(found, target.double(), strict=True):
        known = t > 0
        if kind == "l1":
            total, n = total + (f[known] - t[known]).abs().sum(), n + int(known.sum())
        elif known.any():
            d = f[known].log() - t[known].log()
            total, n = total + (d**2).mean() - lam * d.sum() ** 2 / len(d) ** 2, n + 1
    return total / max(1, n)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    b=st.integers(1, 3),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    kind=st.sampled_from(["silog", "l1"]),
    lam=st.sampled_from([0.5, 0.85, 1.0]),
    output=st.sampled_from(["softplus", "log", "metres"]),
)
def test_loss_and_gradient_are_those_of_the_measured_pixels(seed, b, h, w, share, kind, lam, output):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 1, h, w, generator=generator, dtype=torch.float64)
    if output == "metres":
        x = x.abs() + 0.1
    target = torch.rand(b, 1, h, w, generator=generator) * 4 + 0.5
    target[torch.rand(b, 1, h, w, generator=generator) < share] = 0
    task = Depth(kind=kind, silog_lambda=lam, output=output)
    ours, theirs = x.float().requires_grad_(), x.clone().requires_grad_()
    loss, expected = task.loss(ours, target), reference(theirs, target, kind, lam, output)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=2e-6)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=2e-6)
    counted = (target > 0).sum() if kind == "l1" else (target > 0).flatten(1).any(1).sum()
    assert int(task.count(target)) == int(counted)


@pytest.mark.parametrize("kind", ["silog", "l1"])
@pytest.mark.parametrize("output", ["softplus", "log", "metres"])
@pytest.mark.parametrize("hole", [0.0, float("nan"), float("inf")])
def test_holes_alone_give_a_loss_of_0_and_a_gradient_of_0(kind, output, hole):
    x = torch.tensor([[[[-200.0, 0.0], [3.0, 200.0]]]], requires_grad=True)  # log of softplus would be infinite
    loss = Depth(kind=kind, output=output).loss(x, torch.full((1, 1, 2, 2), hole))
    loss.backward()
    assert loss.item() == 0.0
    assert not x.grad.isnan().any()
    assert not x.grad.any()


def test_an_output_far_below_0_still_has_a_finite_loss_and_a_gradient():
    x = torch.tensor([[[[-500.0]]]], requires_grad=True)
    loss = Depth().loss(x, torch.ones(1, 1, 1, 1))
    loss.backward()
    assert loss.isfinite()
    assert float(x.grad) == pytest.approx(2 * -500 * 0.5)  # d/dx of d^2 - 0.5 d^2 where log softplus(x) is x


@pytest.mark.parametrize("kind", ["silog", "l1"])
def test_parts_of_a_batch_averaged_by_their_counts_are_the_batch(kind):
    torch.manual_seed(0)
    x, target = torch.randn(5, 1, 4, 4), torch.rand(5, 1, 4, 4) + 0.5
    target[0] = 0
    target[3, :, :3] = 0
    task = Depth(kind=kind)
    parts = [(float(task.loss(a, t)), int(task.count(t))) for a, t in cut([1, 3, 1], x, target)]
    mean = sum(loss * n for loss, n in parts) / sum(n for _, n in parts)
    assert mean == pytest.approx(float(task.loss(x, target)), rel=1e-5)


def errors(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """The metrics of the literature over arrays of pixels."""
    ratio = np.maximum(found / truth, truth / found)
    return [
        np.mean(np.abs(found - truth) / truth),
        np.sqrt(np.mean((found - truth) ** 2)),
        np.mean(np.abs(np.log10(found) - np.log10(truth))),
        *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
    ]


@pytest.mark.parametrize("average", ["image", "pixel"])
@pytest.mark.parametrize("limits", [{}, {"min_depth": 0.8, "max_depth": 3.0}])
def test_metrics_are_numpys(average, limits):
    torch.manual_seed(2)
    target = torch.rand(6, 1, 5, 7) * 4 + 0.3
    target[torch.rand(6, 1, 5, 7) < 0.3] = 0
    target[4] = 0  # an image of holes alone is no part of a mean over images
    x = (target.clamp(min=0.5) * (1 + 0.5 * torch.randn(6, 1, 5, 7)).clamp(min=0.1)).log()
    found = measured(Depth(output="log", average=average, **limits), DATA, *cut([4, 2], x, target))
    low, high = limits.get("min_depth", 1e-3), limits.get("max_depth", np.inf)
    truth, depth = target.double().numpy(), np.clip(x.double().exp().numpy(), low, high)
    kept = (truth > 0) & (truth >= low) & (truth <= high)
    if average == "pixel":
        expected = errors(depth[kept], truth[kept])
    else:
        rows = [errors(d[k], t[k]) for d, t, k in zip(depth, truth, kept, strict=True) if k.any()]
        expected = np.mean(rows, axis=0).tolist()
    names = ["abs_rel", "rmse", "log10", "delta1", "delta2", "delta3"]
    assert [found[name] for name in names] == pytest.approx(expected, rel=1e-6)


def test_maps_without_a_channel_and_of_another_size_serve():
    torch.manual_seed(0)
    x, target = torch.randn(2, 4, 5), torch.rand(2, 1, 8, 10) + 0.5
    task = Depth()
    task.check(x, target, DATA)
    assert torch.equal(task.loss(x, target), task.loss(x[:, None], target))
    assert measured(task, DATA, (x, target)) == measured(task, DATA, (x[:, None], target))


def test_what_cannot_serve_is_refused():
    with pytest.raises(StillhouseError, match=r"4 channels.*num_classes = 1"):
        Depth().check(torch.zeros(2, 4, 8, 8), torch.zeros(2, 1, 8, 8), DATA)
    with pytest.raises(StillhouseError, match="a split must have depths"):
        measured(Depth(), DATA, (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)))


def test_wrong_options_are_all_named_at_once():
    with pytest.raises(StillhouseError) as caught:
        structure({"silog_lambda": 2.0, "min_depth": 1.0, "max_depth": 0.5}, Depth, "task.args")
    assert [f.where for f in caught.value.faults] == ["task.args.silog_lambda", "task.args.max_depth"]


def test_prediction_and_pictures():
    task = Depth(output="metres")
    depth = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert task.prediction(DATA, depth) == {"metres": {"min": 1.0, "mean": 3.0, "median": 2.0, "max": 6.0}}
    assert task.prediction(DATA, depth[0]) == task.prediction(DATA, depth)
    assert task.picture(DATA, torch.rand(3, 8, 8), depth).mode == "RGB"
    target = torch.rand(2, 1, 8, 8) + 1
    target[1] = 0  # one without a measured pixel has no scale
    drawn = task.figures(DATA, torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8), target)["samples"]
    titles = [a.get_title() for a in drawn.axes if a.get_title()]
    assert titles[:3] == ["input", "target", "student"]
    assert [title.split()[0] for title in titles[3:]] == ["error", "error"]  # each with its own scale
    assert titles[-1] == "error 1 m"  # nothing to compare with
    assert [a.get_ylabel() for a in drawn.axes if a.get_ylabel()] == ["m", "m"]  # of one the prediction's scale
