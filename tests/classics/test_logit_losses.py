"""DKD and DIST: what is compared of two classifiers' outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, logit_pairs, peer, quick
from support.classics import digits
from torch import Tensor

from stillhouse import StillhouseError, train
from stillhouse_classics.dist import StrongerTeacher, correlation_loss
from stillhouse_classics.dkd import DecoupledDistillation, others_loss, target_loss


def relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def decoupled_by_hand(s: Tensor, t: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    target, others = s.new_zeros(()), 0 * s.sum()
    for a, b, label in zip(s, t, labels.tolist(), strict=True):
        q, p = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (a, b))
        target = target + relative_entropy(*(torch.stack([x[label], 1 - x[label]]) for x in (p, q)))
        rest = [torch.cat([x[:label], x[label + 1 :]]) for x in (p, q)]
        others = others + relative_entropy(*(x / x.sum() for x in rest))
    return temperature**2 * target / len(s), temperature**2 * others / len(s)


@quick
@given(logit_pairs())
def test_the_two_parts_are_the_papers(case):
    s, t, labels = case
    for temperature in (1.0, 4.0):
        for part, loss in enumerate((target_loss, others_loss)):
            assert_agree(
                lambda a, b, f=loss, x=temperature: f(a, b, labels, x),
                lambda a, b, i=part, x=temperature: decoupled_by_hand(a, b, labels, x)[i],
                s,
                t,
            )


def test_the_two_parts_make_up_the_divergence_of_hinton_with_the_teachers_doubt_as_factor():
    s, t, labels = draw(5, 4), draw(5, 4, seed=1), torch.tensor([0, 1, 2, 3, 0])
    for row in range(5):
        one = slice(row, row + 1)
        doubt = 1 - t[row].softmax(0)[labels[row]]
        whole = relative_entropy(t[row].softmax(0), s[row].softmax(0))
        parts = target_loss(s[one], t[one], labels[one], 1.0) + doubt * others_loss(s[one], t[one], labels[one], 1.0)
        torch.testing.assert_close(parts, whole)


def test_a_student_that_is_sure_keeps_its_gradient():
    s = torch.tensor([[80.0, 0.0, -3.0]], requires_grad=True)
    loss = target_loss(s, torch.zeros(1, 3), torch.tensor([0]), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert s.grad[0, 0] > 0.5


def pearson(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


@quick
@given(logit_pairs())
def test_the_correlation_is_pearsons(case):
    s, t, _ = case
    by_hand = lambda a, b: sum(1 - pearson(x, y) for x, y in zip(a, b, strict=True)) / len(a)  # noqa: E731
    assert_agree(correlation_loss, by_hand, s, t)


def test_correlations_beside_torchdistill():
    theirs = peer().DISTLoss("x", "output", "x", "output", beta=2.0, gamma=3.0, tau=1.5)

    def ours(a: Tensor, b: Tensor) -> Tensor:
        p, q = (a / 1.5).softmax(1), (b / 1.5).softmax(1)
        return 1.5**2 * (2 * correlation_loss(p, q) + 3 * correlation_loss(p.T, q.T))

    assert_agree(ours, lambda a, b: theirs(io(x=a), io(x=b)), draw(4, 5), draw(4, 5, seed=1))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (DecoupledDistillation, {"temperature": 0.0}),
        (DecoupledDistillation, {"beta": -1.0}),
        (StrongerTeacher, {"temperature": float("inf")}),
        (StrongerTeacher, {"gamma": -1.0}),
    ],
)
def test_bad_options_are_named(make, options):
    with pytest.raises(StillhouseError, match=next(iter(options))):
        make(**options)


@pytest.mark.parametrize("use", ["dkd", "dist"])
def test_a_teacher_of_other_classes_is_refused(use: str):
    teacher = {"model": "stillhouse.models:convnet", "args": {"width": 8, "num_classes": 7}, "random": True}
    with pytest.raises(StillhouseError, match=use):
        train(digits({"use": use}, teacher=teacher), write=False)
