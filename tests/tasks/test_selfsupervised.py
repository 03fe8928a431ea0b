"""Self-supervised pretraining: the losses by their equations, views of the images, and a run that resumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import recipe

from stillhouse import StillhouseError, train
from stillhouse.tasks.self_supervision import (
    SelfSupervised,
    barlow_twins,
    draw_views,
    nt_xent,
)


def pair(n: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randn(n, dim, generator=generator)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(n=st.integers(2, 9), dim=st.integers(1, 7), temperature=st.floats(0.05, 2.0), seed=st.integers(0, 99))
def test_nt_xent_is_equation_1(n, dim, temperature, seed):
    first, second = pair(n, dim, seed)
    z = np.concatenate([first.numpy(), second.numpy()]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [math.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        terms.append(-math.log(math.exp(z[i] @ z[partner] / temperature) / sum(others)))
    assert float(nt_xent(first, second, temperature)) == pytest.approx(np.mean(terms), rel=2e-5, abs=1e-5)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(n=st.integers(3, 12), dim=st.integers(1, 6), weight=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_barlow_twins_is_equation_1_with_its_gradient(n, dim, weight, seed):
    first, second = (x.double().requires_grad_() for x in pair(n, dim, seed))

    def reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a = (a - a.mean(0)) / (a.var(0, correction=0) + 1e-5).sqrt()
        b = (b - b.mean(0)) / (b.var(0, correction=0) + 1e-5).sqrt()
        total = torch.zeros((), dtype=torch.float64)
        for i in range(dim):
            for j in range(dim):
                c = (a[:, i] * b[:, j]).mean()
                total = total + ((1 - c) ** 2 if i == j else weight * c**2)
        return total / dim

    expected = reference(first, second)
    gradients = torch.autograd.grad(expected, (first, second))
    single = [x.detach().float().requires_grad_() for x in (first, second)]
    value = barlow_twins(*single, weight)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-3, abs=1e-4)
    for own, other in zip(torch.autograd.grad(value, single), gradients, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=2e-2, atol=2e-3)


def test_geometry_alone_makes_no_new_values_and_noise_does():
    flat = torch.full((3, 2, 8, 6), 0.7)
    options = {"crop": 0.3, "rotate": 20.0, "flip": True, "jitter": 0.0}
    # Pixels from outside repeat the edge: what is one colour stays that colour, however it is turned and cut.
    torch.testing.assert_close(draw_views(flat, **options, noise=0.0), flat)
    noisy = draw_views(flat.repeat(200, 1, 1, 1), **options, noise=0.1) - 0.7
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.02)


def test_each_sample_has_a_view_of_its_own_and_seeds_repeat_it():
    images = torch.rand(1, 1, 8, 8).expand(16, -1, -1, -1)
    options = {"crop": 0.5, "rotate": 10.0, "flip": True, "jitter": 0.2, "noise": 0.0}
    torch.manual_seed(1)
    views = draw_views(images, **options)
    assert len({tuple(v.flatten().tolist()) for v in views}) == 16
    torch.manual_seed(1)
    assert torch.equal(draw_views(images, **options), views)


def test_without_labels_the_score_is_zero():
    metric = SelfSupervised().metrics(None)["knn"]
    metric.update((torch.randn(5, 2), torch.full((5,), -1)))
    assert metric.compute() == 0.0


@pytest.mark.parametrize("kind", ["simclr", "barlow"])
def test_it_trains_by_recipe_and_measures_neighbours(kind):
    task = {"name": "self-supervised", "args": {"kind": kind, "dim": 5}}
    result = train(recipe(task=task, teacher=None), write=False)
    assert result.student.head.out_features == 5
    assert 0.0 <= result.metrics["test"]["knn"] <= 1.0
    assert 1.0 <= result.metrics["test"]["rank"] <= 5.0


def test_all_wrong_options_are_named():
    with pytest.raises(StillhouseError) as error:
        SelfSupervised(temperature=0.0, crop=1.5, jitter=-1.0)
    assert [fault.where for fault in error.value.faults] == ["temperature", "jitter", "crop"]
