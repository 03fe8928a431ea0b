"""RKD and NST: geometry of samples and of channels, against loops and against torchdistill."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, map_pairs, peer, quick
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse_classics.nst import selectivity_loss
from stillhouse_classics.rkd import relation_loss


def huber(a: Tensor, b: Tensor) -> Tensor:
    gap = (a - b).abs()
    return gap**2 / 2 if gap < 1 else gap - 0.5


def distances_by_hand(s: Tensor, t: Tensor) -> Tensor:
    pairs = list(itertools.combinations(range(len(s)), 2))
    apart = [[(x[i] - x[j]).flatten().norm() for i, j in pairs] for x in (s, t)]
    means = [sum(found) / len(pairs) for found in apart]
    return sum(huber(a / means[0], b / means[1]) for a, b in zip(*apart, strict=True)) / len(pairs)


def angles_by_hand(s: Tensor, t: Tensor) -> Tensor:
    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        a, b = (x[i] - x[j]).flatten(), (x[k] - x[j]).flatten()
        return a @ b / a.norm() / b.norm()

    triples = list(itertools.permutations(range(len(s)), 3))
    return sum((huber(cosine(s, *i), cosine(t, *i)) for i in triples), start=0 * s.sum()) / max(1, len(triples))


@quick
@given(map_pairs())
def test_distances_are_the_papers(pair):
    assert_agree(lambda s, t: relation_loss(s, t, angle=0), distances_by_hand, *pair)


@quick
@given(map_pairs(3))
def test_angles_are_the_papers(pair):
    assert_agree(lambda s, t: relation_loss(s, t, distance=0, angle=2.0), angles_by_hand, *pair, factor=2.0)


def test_two_samples_make_no_angle_and_equal_samples_no_gradient_that_is_not_finite():
    assert relation_loss(draw(2, 3), draw(2, 3, seed=1), distance=0) == 0
    x = torch.zeros(4, 3, requires_grad=True)
    relation_loss(x, draw(4, 3).float()).backward()
    assert x.grad.isfinite().all()


def test_relations_beside_torchdistill_which_counts_a_sample_with_itself():
    b = 5
    s, t = draw(b, 6), draw(b, 3, seed=1)
    for part, share in (("distance", (b - 1) / b), ("angle", (b - 1) * (b - 2) / b**2)):
        options = {"distance": 0.0, "angle": 0.0, part: 1.0}
        theirs = peer().RKDLoss("x", "x", options["distance"], options["angle"], "mean")
        assert_agree(
            lambda a, c, o=options: relation_loss(a, c, **o),
            lambda a, c, o=theirs: o(io(x=a), io(x=c)),
            s,
            t,
            1 / share,
        )


def selectivity_by_hand(s: Tensor, t: Tensor, kernel: str) -> Tensor:
    total = s.new_zeros(())
    for x, y in zip(s, t, strict=True):
        x, y = ([channel.flatten() / channel.norm() for channel in side] for side in (x, y))
        width = sum(((a - b) ** 2).sum() for a in x for b in y).detach() / len(x) / len(y)
        kernels = {
            "linear": lambda a, b: a @ b,
            "polynomial": lambda a, b: (a @ b) ** 2,
            "gaussian": lambda a, b, w=width: (-((a - b) ** 2).sum() / (2 * w)).exp(),
        }
        mean = lambda p, q, k=kernels[kernel]: sum(k(a, b) for a in p for b in q) / len(p) / len(q)  # noqa: E731
        total = total + mean(x, x) + mean(y, y) - 2 * mean(x, y)
    return total / len(s)


@quick
@given(map_pairs())
def test_selectivity_is_the_papers(pair):
    for kernel in ("polynomial", "linear", "gaussian"):
        assert_agree(
            lambda s, t, k=kernel: selectivity_loss(s, t, k),
            lambda s, t, k=kernel: selectivity_by_hand(s, t, k),
            *pair,
        )


def test_selectivity_needs_places():
    with pytest.raises(StillhouseError, match="at least 2 positions"):
        selectivity_loss(draw(2, 3), draw(2, 3))
