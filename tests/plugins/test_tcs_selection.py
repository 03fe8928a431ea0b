"""Which dimensions die, when and by what measure, and the probe against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from stillhouse import StillhouseError
from stillhouse_tcs import count_live, drop, schedule_drops
from stillhouse_tcs.head import Readout
from stillhouse_tcs.probe import fit_probe, select_by_probe
from stillhouse_tcs.selection import accumulate, find_lowest

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
