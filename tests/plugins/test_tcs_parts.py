"""The parts of the coordinate path, against NumPy, SciPy, hand-computed values and what theory says."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from support import TinyNet
from torch import nn

from stillhouse import StillhouseError, StillhouseWarning
from stillhouse.teachers.cache import Moments
from stillhouse_tcs import (
    Axes,
    CoordinateHead,
    count_live,
    drop,
    elsh,
    find_axes,
    find_head,
    fold,
    load_axes,
    pca_mse,
    save_axes,
    schedule_drops,
    soft_targets,
)
from stillhouse_tcs.head import Readout
from stillhouse_tcs.mimic import Bits
from stillhouse_tcs.probe import fit_probe, select_by_probe
from stillhouse_tcs.selection import accumulate, find_lowest


def rows_of(n: int = 60, d: int = 8, rank: int | None = None, seed: int = 0) -> np.ndarray:
    """Features of unequal variances, rotated, with a mean."""
    generator = np.random.default_rng(seed)
    rank = rank or d
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
    return generator.normal(size=(n, rank)) * (3.0 / (1 + np.arange(rank))) @ basis[:rank] + generator.normal(size=d)


def moments_of(rows: np.ndarray) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add(torch.from_numpy(rows))
    return moments


# Axes


def test_principal_axes_are_those_of_the_svd():
    rows = rows_of()
    axes = find_axes(moments_of(rows), "pca", 5)
    centred = rows - rows.mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    variances = s**2 / (len(rows) - 1)
    scale = np.sqrt(variances.sum() / 8)
    assert axes.scale == pytest.approx(scale)
    np.testing.assert_allclose(axes.spectrum, variances / scale**2, rtol=1e-10)
    np.testing.assert_allclose(np.abs(axes.vectors.numpy().T @ vt[:5].T), np.eye(5), atol=1e-9)
    assert axes.explained == pytest.approx(variances[:5].sum() / variances.sum())
    coordinates = (rows / scale - axes.mean.numpy()) @ axes.vectors.numpy()
    assert axes.energy == pytest.approx(np.square(coordinates).sum(1).mean())
    assert axes.rank == 8
    assert axes.k == 5


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.floats(0.05, 0.999), st.integers(2, 12), st.sampled_from(["pca", "random", "identity"]))
def test_a_share_takes_the_fewest_axes_that_hold_it(share: float, d: int, kind: str):
    rows = rows_of(50, d, seed=d)
    torch.manual_seed(d)
    axes = find_axes(moments_of(rows), kind, share)
    assert axes.explained >= share - 1e-9
    cov = np.cov(rows, rowvar=False).reshape(d, d) / axes.scale**2
    held = np.diag(axes.vectors.numpy().T @ cov @ axes.vectors.numpy()) / np.trace(cov)
    assert held[:-1].sum() < share
    np.testing.assert_allclose(axes.vectors.T @ axes.vectors, np.eye(axes.k), atol=1e-12)


@pytest.mark.parametrize("kind", ["random", "identity"])
@pytest.mark.parametrize("k", [2, 0.9])
def test_control_axes_match_principal_ones_in_number_or_in_variance(kind: str, k: int | float):
    moments = moments_of(rows_of(50, 8))
    principal = find_axes(moments, "pca", k)
    torch.manual_seed(1)
    as_many = find_axes(moments, kind, k, match="number")
    assert as_many.k == principal.k
    assert as_many.explained < principal.explained
    torch.manual_seed(1)
    as_much = find_axes(moments, kind, k, match="variance")
    assert as_much.explained >= principal.explained - 1e-9
    torch.manual_seed(1)
    assert find_axes(moments, kind, as_much.k - 1).explained < principal.explained


def test_the_axes_of_identity_are_features_by_variance():
    rows = rows_of(40, 5)
    axes = find_axes(moments_of(rows), "identity", 2)
    assert np.argsort(rows.var(0))[::-1][:2].tolist() == axes.vectors.argmax(0).tolist()


def test_k_is_clipped_to_the_rank_with_one_notice_and_an_explicit_one_is_an_error():
    few = moments_of(rows_of(6, 20))
    with pytest.warns(StillhouseWarning, match=r"20 axes, but the features of 6 samples span 5 dimensions") as caught:
        assert find_axes(few, "pca", 1.0).k == 5
    assert len(caught) == 1
    assert find_axes(few, "pca", 5).k == 5
    with pytest.raises(
        StillhouseError, match=r"k: must be at most 5, got 6: 6 samples of 20 features span 5 dimensions"
    ):
        find_axes(few, "pca", 6)
    with pytest.raises(StillhouseError, match="k: must be at most 20, got 21: there are 20"):
        find_axes(few, "random", 21)
    assert find_axes(few, "random", 20).k == 20


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_rank_is_that_of_the_float32_features(offset: float):
    rows = torch.from_numpy(rows_of(400, 64, rank=20) + offset).float()
    moments, halved = Moments(64), Moments(64)
    moments.add(rows)
    halved.add(rows.half())
    assert find_axes(moments, "pca", 0.9).rank == 20
    assert find_axes(halved, "pca", 0.9).rank == 64  # why half-precision features are not what is measured


def test_too_few_samples_and_constant_features_are_refused():
    with pytest.raises(StillhouseError, match="needs at least 2 samples, got 1"):
        find_axes(moments_of(rows_of(1)), "pca", 2)
    with pytest.raises(StillhouseError, match="features that vary, got 8 equal ones for all 10 samples"):
        find_axes(moments_of(np.repeat(rows_of(1), 10, 0)), "pca", 0.99)


def test_axes_go_through_a_file(tmp_path: Path):
    moments = moments_of(rows_of(seed=1))
    save_axes(tmp_path / "axes.safetensors", moments)
    other = moments_of(rows_of(seed=2))
    axes = find_axes(other, "axes.safetensors", 3, base=tmp_path)
    own = find_axes(moments, "pca", 3)
    torch.testing.assert_close(axes.vectors, own.vectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(axes.mean * axes.scale, own.mean * own.scale)
    rows = torch.from_numpy(rows_of(seed=2)) / axes.scale
    energy = ((rows - axes.mean) @ axes.vectors).square().sum(1).mean()
    assert axes.energy == pytest.approx(float(energy))
    with pytest.raises(StillhouseError, match="must be at most 8, got 9: there are 8"):
        find_axes(other, "axes.safetensors", 9, base=tmp_path)
    with pytest.raises(StillhouseError, match="its axes must have the 9 features of the teacher's layer, got 8"):
        load_axes(tmp_path / "axes.safetensors", 9)


def test_a_bad_axes_file_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(StillhouseError, match="did you mean 'pca'"):
        find_axes(moments_of(rows_of()), "pcaa", 2, base=tmp_path)
    with pytest.raises(StillhouseError, match="file not found"):
        find_axes(moments_of(rows_of()), "a.safetensors", 2, base=tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(StillhouseError, match="damaged or not a safetensors"):
        load_axes(path, 8)
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(StillhouseError, match=r"got other \(2,\)"):
        load_axes(path, 8)
    save_file({"axes": torch.ones(8, 2)}, path)
    with pytest.raises(StillhouseError, match="must be orthonormal"):
        load_axes(path, 8)


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


# Losses


def test_pca_mse_is_the_relative_squared_error_over_live_dimensions():
    generator = np.random.default_rng(0)
    s, t = generator.normal(size=(2, 9, 4))
    live = np.array([1.0, 0.0, 1.0, 1.0])
    expected = (np.square(s - t) * live).sum(1).mean() / 2.5
    tensors = (torch.from_numpy(a).float() for a in (s, t, live))
    assert float(pca_mse(*tensors, torch.tensor(2.5))) == pytest.approx(expected, rel=1e-6)


def test_a_student_of_no_coordinates_has_the_loss_one():
    rows = rows_of()
    axes = find_axes(moments_of(rows), "pca", 5)
    c = torch.from_numpy((rows / axes.scale - axes.mean.numpy()) @ axes.vectors.numpy())
    assert float(pca_mse(torch.zeros_like(c), c, torch.ones(5), torch.tensor(axes.energy))) == pytest.approx(1.0)


def test_elsh_is_the_binary_cross_entropy_of_the_hashes():
    generator = np.random.default_rng(0)
    h, vectors, bias = generator.normal(size=(6, 4)), generator.normal(size=(4, 11)), generator.normal(size=11)
    bits = generator.random((6, 11)) > 0.5
    p = expit(h @ vectors + bias)
    expected = -(bits * np.log(p) + ~bits * np.log1p(-p)).mean()
    arguments = (torch.from_numpy(a).float() for a in (h, bits.astype(float), vectors, bias))
    assert float(elsh(*arguments)) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_are_the_tempered_divergence():
    generator = np.random.default_rng(0)
    s, t = generator.normal(size=(2, 6, 4)) * 3
    p = softmax(t / 3.0, 1)
    expected = 9.0 * (p * (log_softmax(t / 3.0, 1) - log_softmax(s / 3.0, 1))).sum(1).mean()
    assert float(soft_targets(torch.from_numpy(s), torch.from_numpy(t), 3.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hashes", [1, 8, 13])
def test_packed_bits_are_the_hashes_signs(hashes: int):
    from stillhouse.teachers.cache import TeacherCache

    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 30, 4)).astype(np.float32)
    ids = generator.permutation(100)[:30].astype(np.int64)
    cache = TeacherCache(ids, {"features/": features}, None, folder=None, was_there=True)
    vectors, bias = (
        generator.normal(size=(4, hashes)).astype(np.float32),
        generator.normal(size=hashes).astype(np.float32),
    )
    axes: Any = SimpleNamespace(centre=torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64), scale=2.0)
    bits = Bits(cache, "", axes, torch.from_numpy(vectors), torch.from_numpy(bias))
    features = (features.astype(np.float64) - axes.centre.numpy()).astype(np.float32)
    for epoch in range(3):
        found = bits.take(torch.from_numpy(ids[::-1].copy()), epoch, torch.device("cpu"))
        assert np.array_equal(found.numpy(), (features[epoch % 2, ::-1] / 2.0 @ vectors + bias > 0).astype(np.float32))


# Selection


@pytest.mark.parametrize(
    ("k", "keep", "counts"), [(100, 1, [90, 81, 73, 66, 60]), (9, 6, [8, 7, 6, 6, 6]), (3, 9, [3] * 5)]
)
def test_each_round_drops_a_tenth_and_at_least_one_down_to_the_floor(k: int, keep: int, counts: list[int]):
    assert [count_live(k, n + 1, keep) for n in range(5)] == counts


def test_the_rounds_lie_where_they_should():
    assert dict(schedule_drops(1000)) == {200: 1, 350: 1, 500: 1, 650: 1, 800: 1}
    assert sum(schedule_drops(3).values()) == 5
    assert max(schedule_drops(1)) == 1


def test_the_least_of_the_live_die_for_good():
    readout = Readout(10, 2, train_mask=True, train_head=True, rounds=5)
    scores = [torch.tensor([5.0, 1, 9, 2, 8, 3, 7, 4, 6, 10]), torch.zeros(10), torch.arange(10.0, 0, -1)]
    dead = [{1}, {1, 9}, {1, 9, 8}]  # of equal scores the last one, the axis of least variance
    for number, (values, gone) in enumerate(zip(scores, dead, strict=True)):
        readout.scores.copy_(values)
        drop(readout, 10, number, keep=1)
        assert set((readout.live == 0).nonzero().flatten().tolist()) == gone
        assert readout.scores.sum() == 0
    assert readout.history.tolist() == [10, 9, 8, 7, 0, 0]
    c = torch.randn(4, 10, requires_grad=True)
    readout(c).sum().backward()
    assert set((c.grad.abs().sum(0) == 0).nonzero().flatten().tolist()) == {1, 8, 9}
    before = readout.scores.clone()
    accumulate(readout)
    assert readout.scores[[1, 8, 9]].sum() == 0
    assert readout.scores.sum() > before.sum()


@pytest.mark.parametrize("overflowed", [float("inf"), float("nan")])
def test_a_step_whose_gradients_overflowed_counts_for_nothing(overflowed: float):
    readout = Readout(4, 2, train_mask=True, train_head=True, rounds=5)
    for gradient in ([1.0, 4.0, 2.0, 3.0], [overflowed, 1.0, overflowed, 1.0]):
        readout.mask.grad = torch.tensor(gradient)
        accumulate(readout)
    assert readout.scores.tolist() == [1.0, 5.0, 2.0, 4.0]
    drop(readout, 4, 0, keep=1)
    assert readout.live.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_lowest_of_nothing_is_nothing():
    assert find_lowest(torch.ones(4), torch.ones(4), 0).tolist() == []


# The probe


@pytest.mark.parametrize("classes", [2, 4])
def test_the_probe_is_scikit_learns(classes: int):
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, 80)
    features = generator.normal(size=(80, 5)) + 2 * np.eye(classes, 5)[labels]
    weight, bias = fit_probe(torch.from_numpy(features), labels, classes)
    model = LogisticRegression(max_iter=1000).fit(features, labels)
    ours = softmax(features @ weight.numpy().T.astype(float) + bias.numpy(), 1)
    np.testing.assert_allclose(ours, model.predict_proba(features), atol=1e-4)


def test_a_class_without_samples_is_never_chosen():
    labels = np.array([0, 2] * 10)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3)))
    weight, bias = fit_probe(features, labels, 4)
    assert weight[[1, 3]].abs().sum() == 0
    assert set((features.float() @ weight.T + bias).argmax(1).tolist()) <= {0, 2}
    with pytest.raises(StillhouseError, match="at least two classes"):
        fit_probe(features, labels * 0, 4)


def test_selection_by_probe_keeps_what_tells_the_classes_apart():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    features = generator.normal(size=(200, 6))
    features[:, [1, 4]] += 3 * labels[:, None]
    live = select_by_probe(torch.from_numpy(features), labels, 2, [5, 4, 3, 2])
    assert live.tolist() == [0, 1, 0, 0, 1, 0]


def test_no_warning_reaches_the_user_of_a_probe():
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_probe(torch.from_numpy(generator.normal(size=(30, 40)) * 1e3), generator.integers(0, 3, 30), 3)
        fit_probe(torch.from_numpy(generator.normal(size=(12, 40))), np.arange(12), 12)
