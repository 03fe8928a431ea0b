"""What the watcher computes, against independent float64 references: similarity, rank, matrices, gradients, updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from stillhouse import Link
from stillhouse_watcher import (
    compute_cka,
    compute_effective_rank,
    compute_gram_error,
    measure_gradients,
    measure_matrix,
)
from stillhouse_watcher.gradients import keeping_buffers
from stillhouse_watcher.layers import MOST, copy_weights, group_layers, measure_updates
from stillhouse_watcher.links import SAMPLE, find_rows, measure_links
from stillhouse_watcher.matrices import find_matrices

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
sides = st.tuples(st.integers(3, 20), st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))


@QUICK
@given(sides)
def test_cka_and_gram_error_are_their_definitions(shape):
    rows, c, d, seed = shape
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(rows, c)), generator.normal(size=(rows, d))
    x, y = a - a.mean(0), b - b.mean(0)
    # Kornblith et al. 2019, section 3: ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), by channels and not by samples.
    cka = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert compute_cka(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(cka, rel=1e-9)
    error = np.linalg.norm(a @ a.T - b @ b.T) / np.linalg.norm(b @ b.T)
    assert compute_gram_error(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(error, rel=1e-9)


@QUICK
@given(sides, st.sampled_from([torch.float32, torch.float64]))
def test_the_effective_rank_is_its_definition_whichever_side_is_longer(shape, dtype):
    rows, c, _, seed = shape
    a = torch.tensor(np.random.default_rng(seed).normal(size=(rows, c)), dtype=dtype)
    values = np.linalg.svd(a.double().numpy() - a.double().numpy().mean(0), compute_uv=False)
    share = values[values > 1e-9 * values.max()]
    share = share / share.sum()
    wanted = np.exp(-(share * np.log(share)).sum())
    assert compute_effective_rank(a).item() == pytest.approx(wanted, rel=1e-4)


def test_rows_that_are_all_alike_have_no_direction_and_those_on_a_line_have_one():
    alike = torch.full((9, 5), 0.1) * torch.arange(1.0, 6.0)
    assert compute_effective_rank(alike).item() == 0.0
    assert compute_effective_rank(torch.outer(torch.arange(9.0), torch.ones(5))).item() == pytest.approx(1.0, abs=1e-3)


def test_maps_are_thinned_to_some_rows_and_both_sides_alike():
    x = torch.arange(2.0 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    assert find_rows(x).shape == (256, 3)
    assert len(find_rows(torch.zeros(SAMPLE + 1, 3))) <= SAMPLE
    found, spectra = measure_links({"a/b": Link("a/b", torch.randn(8, 4), torch.randn(8, 6)), "c/d": Link("c/d", x, x)})
    assert {name: len(values) for name, values in spectra.items()} == {
        "student/a/b": 4,
        "teacher/a/b": 6,
        "student/c/d": 3,
        "teacher/c/d": 3,
    }
    assert {tag.split("/")[0] for tag in found} == {"rank_student", "rank_teacher", "cka", "gram_error"}
    assert found["cka/c/d"].item() == pytest.approx(1.0, abs=1e-5)
    assert found["gram_error/c/d"].item() == 0.0


@QUICK
@given(sides)
def test_a_matrix_has_the_singular_values_and_the_error_that_numpy_finds(shape):
    rows, c, _, seed = shape
    w = np.random.default_rng(seed).normal(size=(rows, c))
    values = np.linalg.svd(w, compute_uv=False)
    gram = w.T @ w if rows >= c else w @ w.T
    found = {name: value.item() for name, value in measure_matrix(torch.tensor(w)).items()}
    wanted = {
        "largest": values.max(),
        "least": values.min(),
        "condition": values.max() / values.min(),
        "orthogonality_error": np.abs(gram - np.eye(len(gram))).max(),
    }
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_matrices_are_found_in_whatever_a_plugin_builds():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.ModuleDict({"link:a": nn.Linear(3, 5), "free": orthogonal(nn.Linear(3, 3))})
            self.point = nn.Conv2d(4, 6, 1)
            self.wide = nn.Conv2d(4, 6, 3)
            self.register_buffer("covariance", torch.eye(4))
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("places", torch.zeros(4, 4, dtype=torch.long))

    found = dict(find_matrices(Own()))
    assert set(found) == {"maps.link:a.weight", "maps.free.weight", "point.weight", "covariance"}
    assert found["point.weight"].shape == (6, 4)
    assert measure_matrix(found["maps.free.weight"])["orthogonality_error"] < 1e-5, "as it is used"


@QUICK
@given(st.integers(0, 99), st.floats(0.1, 5.0))
def test_gradients_are_those_of_each_term_alone_and_leave_the_step_as_it_was(seed, weight):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    frozen = nn.Linear(2, 1).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    y = model(x)
    losses = {"task": y.square().mean(), "a": (y[:, 0] - 1).square().mean(), "b": frozen(x[:, :2]).mean()}
    weights = {"task": 1.0, "a": weight, "b": 1.0}
    parameters = list(model.parameters())
    found = {name: (norm, cosine) for name, norm, cosine in measure_gradients(losses, weights, parameters)}
    assert all(p.grad is None for p in model.parameters())
    sum(losses[n] * weights[n] for n in losses).backward()  # the graph is still there
    flat = {}
    for name in ("task", "a"):
        model.zero_grad()
        again = model(x)
        value = again.square().mean() if name == "task" else (again[:, 0] - 1).square().mean()
        value.backward()
        flat[name] = torch.cat([p.grad.flatten() for p in parameters]).numpy()
    assert found["task"][0].item() == pytest.approx(np.linalg.norm(flat["task"]))
    assert found["task"][1] is None
    assert found["a"][0].item() == pytest.approx(weight * np.linalg.norm(flat["a"]))
    cosine = flat["a"] @ flat["task"] / np.linalg.norm(flat["a"]) / np.linalg.norm(flat["task"])
    assert found["a"][1].item() == pytest.approx(cosine, abs=1e-9)
    assert [value.item() for value in found["b"]] == [0.0, 0.0], "it does not reach the student"


def test_buffers_that_a_backward_pass_moves_are_put_back():
    norm = nn.BatchNorm1d(3)
    before = norm.running_mean.clone()
    with keeping_buffers(norm):
        norm(torch.randn(5, 3) + 4)
    assert torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 0


def test_updates_are_measured_by_the_students_own_parts():
    student = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    groups = group_layers(student)
    assert list(groups) == ["0.0", "0.2"]
    before = copy_weights(groups)
    with torch.no_grad():
        for p in groups["0.0"]:
            p.mul_(1.01)
    found = measure_updates(groups, before)
    assert found["update_to_weight/0.0"].item() == pytest.approx(0.01, rel=1e-3)
    assert found["update_to_weight/0.2"].item() == 0.0


def test_many_parts_are_gathered_so_that_a_chart_can_be_read():
    groups = group_layers(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3 * MOST))))
    assert len(groups) == MOST
    assert sum(len(own) for own in groups.values()) == 2 * 3 * MOST
