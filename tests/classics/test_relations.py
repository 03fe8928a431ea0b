"""What relates the samples of a batch or the places of a map: AT, SP, CC, PKT, against loops and against torchdistill."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, map_pairs, peer, quick
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse_classics.at import attention_loss
from stillhouse_classics.cc import congruence_loss
from stillhouse_classics.pkt import neighbours_loss
from stillhouse_classics.sp import similarity_loss


def attention_by_hand(s: Tensor, t: Tensor, power: float, form: str) -> Tensor:
    total, cells = s.new_zeros(()), s.shape[2] * s.shape[3]
    for a, b in zip(s, t, strict=True):
        maps = [sum(channel.abs() ** power for channel in x).flatten() for x in (a, b)]
        gap = maps[0] / maps[0].norm() - maps[1] / maps[1].norm()
        total = total + ((gap * gap).sum() / cells if form == "code" else gap.norm() / 2)
    return total / len(s)


@quick
@given(map_pairs())
def test_attention_is_both_readings_of_the_paper(pair):
    for form in ("code", "paper"):
        for power in (1.0, 2.0, 4.0):
            assert_agree(
                lambda s, t, p=power, f=form: attention_loss(s, t, p, f),
                lambda s, t, p=power, f=form: attention_by_hand(s, t, p, f),
                *pair,
            )


@pytest.mark.parametrize(("form", "factor"), [("code", 1.0), ("paper", 0.5)])
def test_attention_beside_torchdistill(form: str, factor: float):
    layer = {"path": "x", "io": "output"}
    theirs = peer().ATLoss({"pair": {"student": layer, "teacher": layer}}, mode=form)
    s, t = draw(3, 4, 5, 5, seed=1), draw(3, 6, 5, 5, seed=2)
    assert_agree(lambda a, b: attention_loss(a, b, form=form), lambda a, b: theirs(io(x=a), io(x=b)), s, t, factor)


def test_attention_needs_places_and_the_same_ones():
    with pytest.raises(StillhouseError, match="at least 2 positions"):
        attention_loss(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(StillhouseError, match="as many positions"):
        attention_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2))


def gram(x: Tensor) -> list[list[Tensor]]:
    return [[(a.flatten() * b.flatten()).sum() for b in x] for a in x]


def similarity_by_hand(s: Tensor, t: Tensor, *, norm: int = 2) -> Tensor:
    rows = [[torch.stack(row) / torch.stack(row).norm(norm) for row in gram(x)] for x in (s, t)]
    return sum((a - b).square().sum() for a, b in zip(*rows, strict=True)) / len(s) ** 2


@quick
@given(map_pairs())
def test_similarity_is_the_papers(pair):
    assert_agree(similarity_loss, similarity_by_hand, *pair)


def test_torchdistills_similarity_has_rows_of_sum_one_where_the_paper_has_euclidean_norm():
    theirs = peer().SPKDLoss("x", "x", "batchmean")
    s, t = draw(4, 6, seed=3), draw(4, 5, seed=4)
    beside = lambda a, b: theirs(io(x=a), io(x=b))  # noqa: E731
    # normalize(z, 1) sets p = 1 there, and with it the norm of rows, not the dimension.
    assert_agree(lambda a, b: similarity_by_hand(a, b, norm=1), beside, s, t)
    assert not torch.isclose(similarity_loss(s, t), beside(s, t), rtol=1e-2)


def congruence_by_hand(s: Tensor, t: Tensor, kernel: str, gamma: float, order: int) -> Tensor:
    total = s.new_zeros(())
    for i in range(len(s)):
        for j in range(len(s)):
            k = []
            for x in (s, t):
                a, b = x[i].flatten(), x[j].flatten()
                cosine = (a / a.norm()) @ (b / b.norm())
                terms = [math.exp(-2 * gamma) * (2 * gamma * cosine) ** p / math.factorial(p) for p in range(order + 1)]
                k.append(cosine if kernel == "bilinear" else sum(terms))
            total = total + (k[0] - k[1]) ** 2
    return total / len(s) ** 2


@quick
@given(map_pairs())
def test_congruence_is_the_papers(pair):
    for kernel, gamma, order in (("gaussian", 0.4, 2), ("gaussian", 1.5, 4), ("bilinear", 0.4, 2)):
        assert_agree(
            lambda s, t, k=kernel, g=gamma, o=order: congruence_loss(s, t, k, g, o),
            lambda s, t, k=kernel, g=gamma, o=order: congruence_by_hand(s, t, k, g, o),
            *pair,
        )


def test_the_taylor_polynomial_tends_to_the_gaussian():
    x = torch.nn.functional.normalize(draw(4, 3, seed=5), dim=1)
    other = draw(4, 2, seed=6)
    exact = [
        (-0.7 * torch.cdist(torch.nn.functional.normalize(y), torch.nn.functional.normalize(y)) ** 2).exp()
        for y in (x, other)
    ]
    torch.testing.assert_close(congruence_loss(x, other, gamma=0.7, order=20), (exact[0] - exact[1]).square().mean())


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_torchdistills_congruence_is_a_norm_where_the_paper_has_its_square(kernel: str):
    theirs = peer().CCKDLoss("x", "x", {"type": kernel, "gamma": 0.4, "max_p": 2}, "batchmean")
    s, t = (torch.nn.functional.normalize(draw(4, n, seed=7)) for n in (6, 3))
    found = theirs(io(x=s), io(x=t)) * 16  # it divides by B^2 after the root
    torch.testing.assert_close(congruence_loss(s, t, kernel), found.square() / 16)


def neighbours_by_hand(s: Tensor, t: Tensor) -> Tensor:
    total = s.new_zeros(())
    for i in range(len(s)):
        rows = []
        for x in (s, t):
            a = x[i].flatten()
            row = torch.stack([(a @ b.flatten() / a.norm() / b.norm() + 1) / 2 for b in x])
            rows.append(row / row.sum())
        total = total + (rows[1] * ((rows[1] + 1e-7) / (rows[0] + 1e-7)).log()).sum()
    return total / len(s)


@quick
@given(map_pairs())
def test_neighbours_are_the_papers(pair):
    assert_agree(neighbours_loss, neighbours_by_hand, *pair)


def test_neighbours_beside_torchdistill():
    theirs = peer().PKTLoss("x", "output", "x", "output", eps=1e-7)
    s, t = draw(4, 6, seed=8), draw(4, 3, seed=9)
    found = neighbours_loss(s, t), theirs(io(x=s), io(x=t))
    # Its norms have 1e-7 added to them, and it takes the mean over pairs.
    torch.testing.assert_close(found[0], 4 * found[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", [similarity_loss, congruence_loss, neighbours_loss])
def test_two_batches_are_refused(loss):
    with pytest.raises(StillhouseError, match="the same samples"):
        loss(torch.randn(2, 3), torch.randn(3, 3))
