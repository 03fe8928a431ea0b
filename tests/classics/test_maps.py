"""FSP, FT, ICKD, MGD, ReviewKD, SRD and TAT: what is made of maps, against loops and against torchdistill."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from support.agreement import assert_agree, draw, io, map_pairs, peer, quick
from support.classics import ALL, MAPS, VECTORS, digits
from torch import Tensor

from stillhouse import StillhouseError, prepare
from stillhouse_classics.fsp import flow, flow_loss
from stillhouse_classics.ft import Factors, factor_loss
from stillhouse_classics.ickd import correlation_distance
from stillhouse_classics.mgd import Generation, draw_mask
from stillhouse_classics.reviewkd import Fusion, context_loss
from stillhouse_classics.srd import Projection, log_distance
from stillhouse_classics.tat import Target, target_loss


def flow_by_hand(first: Tensor, second: Tensor) -> Tensor:
    places = [(i, j) for i in range(first.shape[2]) for j in range(first.shape[3])]
    return sum(first[:, :, i, j, None] * second[:, None, :, i, j] for i, j in places) / len(places)


@quick
@given(map_pairs(same_width=True))
def test_flows_are_the_papers(pair):
    later = [draw(*x.shape[:1], 3, *x.shape[2:], seed=5 + n) for n, x in enumerate(pair)]
    assert_agree(
        lambda s, t: flow_loss((s, later[0]), (t, later[1])),
        lambda s, t: (flow_by_hand(s, later[0]) - flow_by_hand(t, later[1])).square().mean(),
        *pair,
    )


def test_the_finer_of_two_grids_is_pooled_by_its_greatest_values():
    fine, coarse = draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)
    torch.testing.assert_close(flow(fine, coarse), flow_by_hand(F.max_pool2d(fine, 2), coarse))


def test_flows_beside_torchdistill_which_sums_norms_of_columns():
    paths = {
        f"{side}_{at}": {"path": at, "io": "output"} for side in ("student", "teacher") for at in ("first", "second")
    }
    theirs = peer().FSPLoss({"pair": paths})
    s, t = ((draw(3, 2, 4, 4, seed=n), draw(3, 5, 2, 2, seed=n + 1)) for n in (0, 5))
    found = theirs(io(first=s[0], second=s[1]), io(first=t[0], second=t[1]))
    gap = flow(*s) - flow(*t)
    torch.testing.assert_close(found, gap.norm(dim=1).sum() / 3)
    torch.testing.assert_close(flow_loss(s, t), gap.square().mean())


def test_flows_need_two_links_of_one_width():
    with pytest.raises(StillhouseError, match="at least 2 links"):
        prepare(digits(MAPS, {"use": "projector", "kind": "linear"}, {"use": "fsp"}), write=False)
    with pytest.raises(StillhouseError, match=r"features/stage1.*as many channels"):
        prepare(digits(ALL, {"use": "fsp"}), write=False)


@quick
@given(map_pairs(same_width=True))
def test_factors_are_the_papers(pair):
    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        sides = [[x.flatten() / x.norm() for x in side] for side in (s, t)]
        return sum((a - b).abs().mean() for a, b in zip(*sides, strict=True)) / len(s)

    assert_agree(factor_loss, by_hand, *pair)


def test_factors_beside_torchdistill():
    theirs = peer().FTLoss(p=1)
    assert_agree(
        factor_loss,
        lambda s, t: theirs(io(translator=s), io(paraphraser=t)),
        draw(3, 4, 2, 2),
        draw(3, 4, 2, 2, seed=1),
    )


def test_the_paraphraser_learns_by_reconstruction_and_not_by_the_student():
    s, t = draw(4, 3, 4, 4).float(), draw(4, 6, 4, 4, seed=1).float()
    own = Factors(s, t, 0.5)
    own.translate(s, t).backward()
    assert all(p.grad is None for part in (own.encoder, own.decoder) for p in part.parameters())
    assert all(p.grad is not None for p in own.translator.parameters())
    own.paraphrase(s, t).backward()
    assert all(p.grad is not None for part in (own.encoder, own.decoder) for p in part.parameters())
    assert own.encoder(t).shape[1] == 3


@quick
@given(map_pairs(same_width=True))
def test_channels_correlations_are_the_papers(pair):
    def correlate(x: Tensor) -> Tensor:
        gram = torch.stack([torch.stack([(a * b).sum() for b in x]) for a in x])
        return torch.stack([row / row.norm() for row in gram])

    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        return sum((correlate(a) - correlate(b)).square().mean() for a, b in zip(s, t, strict=True)) / len(s)

    assert_agree(correlation_distance, by_hand, *pair)


def test_masked_positions_reach_nothing_and_a_mask_has_its_share():
    mask = draw_mask(torch.zeros(50, 3, 20, 20), 0.3)
    assert mask.shape == (50, 1, 20, 20)
    assert abs(float(mask.mean()) - 0.7) < 0.02
    s, t = draw(2, 3, 4, 4).float(), draw(2, 5, 4, 4, seed=1).float()
    own = Generation(s, t, 0.5)
    torch.manual_seed(3)
    found = own(s, t)
    torch.manual_seed(3)
    mask = (torch.rand(2, 1, 4, 4) >= 0.5).float()
    first, last = own.generate[0], own.generate[2]
    hidden = F.conv2d(F.conv2d(s, own.align.weight, own.align.bias) * mask, first.weight, first.bias, padding=1).clamp(
        0
    )
    made = F.conv2d(hidden, last.weight, last.bias, padding=1)
    torch.testing.assert_close(found, ((made - t) ** 2).sum() / t.numel())


def context_by_hand(s: Tensor, t: Tensor) -> Tensor:
    levels = [(s - t).square().mean()]
    levels += [
        (F.adaptive_avg_pool2d(s, n) - F.adaptive_avg_pool2d(t, n)).square().mean() for n in (4, 2, 1) if n < s.shape[2]
    ]
    return sum(level / 2**n for n, level in enumerate(levels)) / sum(1 / 2**n for n in range(len(levels)))


@quick
@given(map_pairs(same_width=True))
def test_context_is_the_papers(pair):
    assert_agree(context_loss, context_by_hand, *pair)


def test_context_beside_torchdistill():
    theirs = peer().HierarchicalContextLoss("x", "output", "x", "output")
    beside = lambda s, t: theirs({"x": {"output": (s, None)}}, io(x=t))  # noqa: E731
    assert_agree(context_loss, beside, draw(2, 3, 6, 6), draw(2, 3, 6, 6, seed=1))


def test_a_fusion_looks_at_both_and_the_last_at_its_own():
    early, late = draw(2, 3, 4, 4).float(), draw(2, 5, 2, 2, seed=1).float()
    own, last = Fusion(early, draw(2, 6, 4, 4).float(), 7, last=False), Fusion(late, late, 7, last=True)
    _, passed = last(late, None)
    out, fused = own(early, passed)
    assert (out.shape, fused.shape) == ((2, 6, 4, 4), (2, 7, 4, 4))
    squeezed, wide = own.squeeze(early), passed.repeat_interleave(2, 2).repeat_interleave(2, 3)
    z = own.look(torch.cat([squeezed, wide], 1))
    torch.testing.assert_close(fused, squeezed * z[:, :1] + wide * z[:, 1:])
    training = prepare(digits(ALL, {"use": "reviewkd"}), write=False)
    assert [fusion.look is None for fusion in training.run.composition.modules_of["reviewkd"]] == [False, False, True]
    with pytest.raises(StillhouseError, match="needs maps"):
        prepare(digits(VECTORS, {"use": "reviewkd"}), write=False)


def test_the_logarithm_of_the_sum_is_the_papers_and_torchdistills():
    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        return sum((a - b).abs() ** 4 for a, b in zip(s.flatten(), t.flatten(), strict=True)).log()

    s, t = draw(4, 3), draw(4, 3, seed=1)
    assert_agree(log_distance, by_hand, s, t)
    logits = draw(4, 5, seed=2)
    theirs = peer().SRDLoss("x", "output", "x", "output", "z", "output", "z", "output", exponent=4.0)
    beside = lambda a, b: theirs(io(x=a, z=logits), io(x=b, z=logits))  # noqa: E731
    assert_agree(log_distance, beside, s, t, 0.5)  # of equal logits its divergence is 0, and twice the distance is left


def test_both_sides_are_standardised_before_the_distance():
    s, t = draw(6, 3), draw(6, 5, seed=1)
    own = Projection(s, t, 4.0).double()
    sides = [own.linear(s), t]
    standard = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in sides]
    torch.testing.assert_close(own(s, t), (standard[0] - standard[1]).pow(4).sum().log())
    torch.testing.assert_close(own(s, 10 * t + 3), own(s, t), rtol=1e-4, atol=0)


def target_by_hand(queries: Tensor, values: Tensor, teacher: Tensor) -> Tensor:
    missed = []
    for q, v, t in zip(queries.flatten(2).mT, values.flatten(2).mT, teacher.flatten(2).mT, strict=True):
        for target in t:
            weights = torch.stack([(place * target).sum().exp() for place in q])
            mixed = sum(w * place for w, place in zip(weights / weights.sum(), v, strict=True))
            missed.append((mixed - target).square())
    return torch.stack(missed).mean()


@quick
@given(map_pairs(same_width=True))
def test_the_map_that_each_target_asks_for_is_the_papers(pair):
    student, teacher = pair
    other = draw(*teacher.shape, seed=7)
    assert_agree(lambda q, t: target_loss(q, other, t), lambda q, t: target_by_hand(q, other, t), student, teacher)
    assert_agree(lambda v, t: target_loss(other, v, t), lambda v, t: target_by_hand(other, v, t), student, teacher)


def test_each_target_looks_at_two_embeddings_of_the_student():
    s, t = draw(3, 2, 3, 3), draw(3, 5, 3, 3, seed=1)
    own = Target(s, t).double()
    convolved = [F.conv2d(s, part[0].weight, padding=1) for part in (own.queries, own.values)]
    spread = [
        ((x - x.mean((0, 2, 3), True)) / (x.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt()) for x in convolved
    ]
    torch.testing.assert_close(own(s, t), target_by_hand(*spread, t))
    with pytest.raises(StillhouseError, match="at least 2 positions"):
        Target(draw(3, 2, 1, 1), draw(3, 5, 1, 1))
    with pytest.raises(StillhouseError, match="needs maps"):
        prepare(digits(VECTORS, {"use": "tat"}), write=False)
