"""DKD, DIST, logit standardisation and CTKD: what is compared of two classifiers' outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, logit_pairs, peer, quick
from support.classics import digits
from torch import Tensor

from stillhouse import StillhouseError, prepare, train
from stillhouse_classics.ctkd import Temperature, difficulty
from stillhouse_classics.dist import StrongerTeacher, correlation_loss
from stillhouse_classics.dkd import DecoupledDistillation, others_loss, target_loss
from stillhouse_classics.logit_std import standardised_loss
from stillhouse_classics.logits import divergence


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


def standardised_by_hand(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    total = s.new_zeros(())
    for rows in zip(s, t, strict=True):
        q, p = (torch.exp((x - x.mean()) / (x.std() + 1e-7) / temperature) for x in rows)
        total = total + relative_entropy(p / p.sum(), q / q.sum())
    return temperature**2 * total / len(s)


@quick
@given(logit_pairs())
def test_standardised_logits_are_the_papers(case):
    s, t, _ = case
    assert_agree(lambda a, b: standardised_loss(a, b, 3.0), lambda a, b: standardised_by_hand(a, b, 3.0), s, t)
    torch.testing.assert_close(standardised_loss(s, 5 * t + 2, 3.0), standardised_loss(s, t, 3.0), rtol=1e-5, atol=1e-6)


def test_standardised_logits_beside_torchdistill_which_leaves_the_factor_out_without_labels():
    theirs = peer().LogitStdKDLoss("z", "output", "z", "output", temperature=2.0, alpha=0.0, beta=1.0)
    beside = lambda a, b: theirs(io(z=a), io(z=b))  # noqa: E731
    assert_agree(standardised_loss, beside, draw(4, 5), draw(4, 5, seed=1), 4.0)


def test_the_temperature_gets_the_gradient_of_the_students_loss_with_its_sign_turned():
    s, t = draw(4, 5), draw(4, 5, seed=1)
    raw = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(turned: Tensor) -> Tensor:
        temperature = 1.0 + 20.0 * torch.sigmoid(turned)
        p, q = (t / temperature).softmax(1), (s / temperature).softmax(1)
        return temperature**2 * sum(relative_entropy(a, b) for a, b in zip(p, q, strict=True)) / len(s)

    (plain,) = torch.autograd.grad(loss(raw), raw)
    own = Temperature(1.0, 20.0, 10).double()
    own.raw.data.copy_(raw.detach())
    for step, factor in ((0, 0.0), (5, 0.5), (10, 1.0), (99, 1.0)):
        temperature = own(step)
        value = temperature.square() * divergence(s, t, temperature)
        (turned,) = torch.autograd.grad(value, own.raw)
        torch.testing.assert_close(value.detach(), loss(raw).detach())
        torch.testing.assert_close(turned, -factor * plain)
        assert difficulty(step, 10) == pytest.approx(factor)


def test_the_temperature_is_trained_and_logged():
    training = prepare(digits({"use": "ctkd", "share": 0.5}), write=False)
    own = training.run.composition.modules_of["ctkd"]
    assert float(own(0).detach()) == 11.0
    training.fit()
    assert float(own(0).detach()) != 11.0


def test_mixed_targets_are_refused_where_the_label_is_read():
    data = {"name": "sklearn:digits", "per_class": 2, "batch_size": 10, "batch_transforms": [{"use": "MixUp"}]}
    with pytest.raises(StillhouseError, match=r"dkd.*class indices"):
        prepare(digits({"use": "dkd"}, data=data), write=False)
