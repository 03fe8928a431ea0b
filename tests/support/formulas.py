"""Losses and steps of published methods as their papers write them, of torch alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from support.methods import Hand


def divergence(ours: Tensor, theirs: Tensor, t: Tensor | float = 1.0) -> Tensor:
    """Sum over classes of p log(p / q), p the softmax of ``theirs`` / t and q that of ``ours`` / t; mean over samples."""
    p, q = (theirs / t).exp(), (ours / t).exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum(1).mean()


def attention_transfer(hand: Hand) -> Tensor:
    maps = [x["stage2"].pow(2).sum(1).flatten(1) for x in (hand.s, hand.t)]
    ours, theirs = (x / x.norm(dim=1, keepdim=True) for x in maps)
    return ((ours - theirs).norm(dim=1) ** 2).sum() / len(ours) / 2


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of ``a`` with the same of ``b``."""
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)])


def dist(hand: Hand) -> Tensor:
    a, b = (hand.logits / 2).softmax(1), (hand.wanted / 2).softmax(1)
    return 4 * ((1 - pearson(a, b)).mean() + 2 * (1 - pearson(a.T, b.T)).mean())


def review(hand: Hand) -> Tensor:
    before, total = torch.empty(0), torch.zeros(())
    cells = {"stage3": (1,), "stage2": (2, 1), "stage1": (4, 2, 1)}  # of maps 2 x 2, 3 x 3 and 6 x 6
    for fusion, (name, levels) in zip(hand.own, cells.items(), strict=True):
        x = fusion.squeeze(hand.s[name])
        if name != "stage3":
            later = F.interpolate(before, x.shape[2:])
            z = fusion.look(torch.cat([x, later], 1))
            x = x * z[:, 0:1] + later * z[:, 1:2]
        before, gap = x, fusion.expand(x) - hand.t[name]
        parts, weights = [gap.pow(2).mean()], [1.0]
        for n in levels:
            parts.append(F.adaptive_avg_pool2d(gap, n).pow(2).mean())
            weights.append(weights[-1] / 2)
        total = total + sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)
    return total


def crd(hand: Hand) -> Tensor:
    banks, n, k, tau = hand.own, 24, 8, 0.1
    negatives = torch.randint(n, (len(hand.ids), k))
    s, t = (head(x["stage3"].mean((2, 3))) for head, x in zip(banks.heads, (hand.s, hand.t), strict=True))
    s, t = s / s.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    total = torch.zeros(())
    for anchor, bank, constant in ((s, banks.bank1, banks.constant1), (t, banks.bank0, banks.constant0)):
        rows = [[int(i), *map(int, others)] for i, others in zip(hand.ids, negatives, strict=True)]
        h = torch.stack([(bank[row].clone() @ a / tau).exp() for row, a in zip(rows, anchor, strict=True)])
        if constant == 0:
            constant.fill_(h.mean().item() * n)
        h = h / constant.item()
        positive, other = h[:, 0] / (h[:, 0] + k / n), (k / n) / (h[:, 1:] + k / n)
        total = total - (positive.log().sum() + other.log().sum()) / len(s)
    for i, a, b in zip(hand.ids, s.detach(), t.detach(), strict=True):
        for bank, x in ((banks.bank0, a), (banks.bank1, b)):
            mixed = (bank[i] + x) / 2
            bank[i] = mixed / mixed.norm()
    return 0.5 * total


def mean_teacher(hand: Hand) -> Tensor:
    average = hand.own.eval()(hand.x)
    return (hand.logits.softmax(1) - average.softmax(1)).pow(2).mean()


def move_average(hand: Hand) -> None:
    states = hand.own.state_dict(), hand.student.state_dict()
    trained = {name for name, _ in hand.student.named_parameters()}
    for name, value in states[0].items():
        new = states[1][name]
        value.copy_(0.9 * value + (1 - 0.9) * new if name in trained else new)


def mutual(hand: Hand) -> Tensor:
    peer = hand.own(hand.x)
    learned = divergence(hand.logits, peer.detach()) + divergence(peer, hand.logits.detach())
    return learned + F.cross_entropy(peer, hand.y)


def second_view(hand: Hand) -> Tensor:
    turned = hand.x.transpose(2, 3).flip(2)
    assert hand.teacher is not None
    pairs = [(hand.logits, hand.student(turned)), (hand.wanted, hand.teacher(turned))]
    ours, theirs = (F.cosine_similarity(a[:, None], b[None], dim=2) for a, b in pairs)
    return 0.25 * divergence(ours, theirs, 0.5)


def exits(hand: Hand) -> Tensor:
    goal, total = hand.s["stage3"].detach(), torch.zeros(())
    seen = dict(hand.s)
    for name, leave in zip(("stage1", "stage2"), hand.own, strict=True):
        features = leave.features(seen[name])
        logits = leave.head(features)
        total = total + 0.7 * F.cross_entropy(logits, hand.y) + 0.3 * 9 * divergence(logits, hand.logits.detach(), 3.0)
        total = total + 0.03 * (features - goal.mean((2, 3))).pow(2).mean()
    return total


def learned_temperature(hand: Hand) -> Tensor:
    raw = hand.own.raw
    if raw.grad is None:
        factor = lambda: (1 - math.cos(math.pi * hand.i / 6)) / 2  # noqa: E731 - asked anew in each step
        raw.register_hook(lambda g: -factor() * g)
        raw.grad = torch.zeros(())
    t = 1 + 20 / (1 + (-raw).exp())
    return t.square() * divergence(hand.logits, hand.wanted, t)


def sure(hand: Hand) -> Tensor:
    """The task's loss, each sample as sure as the teacher is."""
    w = hand.wanted.softmax(1).max(1).values
    own = torch.stack([-x.log_softmax(0)[y] for x, y in zip(hand.logits, hand.y, strict=True)])
    return (w * own).sum() / w.sum()


def mix(hand: Hand) -> None:
    share = torch.distributions.Beta(0.5, 0.5).sample().item()
    order = torch.randperm(len(hand.x))
    labels = torch.eye(3)[hand.y]
    hand.x = share * hand.x + (1 - share) * hand.x[order]
    hand.y = share * labels + (1 - share) * labels[order]


def two_teachers(hand: Hand) -> Tensor:
    with torch.no_grad():
        answers = [(x / 2).softmax(1) for x in (hand.wanted, hand.teachers["second"](hand.x))]
    return 4 * divergence(hand.logits, (2 * ((answers[0] + answers[1]) / 2).log()), 2.0)


def without_conflicts(hand: Hand, terms: list[Tensor]) -> None:
    trained = hand.parameters
    parts = [torch.autograd.grad(term, trained, retain_graph=True) for term in terms]
    inner = sum((a * b).sum() for a, b in zip(*parts, strict=True))
    assert inner < 0, "the terms conflict"
    squares = [sum(g.pow(2).sum() for g in part) for part in parts]
    for p, a, b in zip(trained, *parts, strict=True):
        p.grad = (a - inner / squares[1] * b) + (b - inner / squares[0] * a)


def rkd(hand: Hand) -> Tensor:
    s, t = (x["stage3"].mean((2, 3)) for x in (hand.s, hand.t))
    n = len(s)
    lengths = [torch.stack([(x[i] - x[j]).norm() for i in range(n) for j in range(i)]) for x in (s, t)]
    total = F.smooth_l1_loss(*(found / found.mean() for found in lengths))
    triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n) if len({i, j, k}) == 3]
    bends = [torch.stack([F.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0) for i, j, k in triples]) for x in (s, t)]
    return total + 2 * F.smooth_l1_loss(*bends)


def vid(hand: Hand) -> Tensor:
    (own,) = hand.own
    s, t = (x["stage2"].permute(0, 2, 3, 1).flatten(0, 2) for x in (hand.s, hand.t))
    variance = (1 + own.raw.exp()).log() + 1e-5
    gaussian = torch.distributions.Normal(own.mean(s), variance.sqrt())
    return -(gaussian.log_prob(t) + math.log(2 * math.pi) / 2).mean()


def nst(hand: Hand) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(hand.s["stage2"], hand.t["stage2"], strict=True):
        s, t = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (s, t))
        for a, b, sign in ((s, s, 1), (t, t, 1), (s, t, -2)):
            pairs = torch.einsum("cn,dn->cd", a, b).pow(2)
            total = total + sign * pairs.sum() / (len(a) * len(b))
    return total / len(hand.x)
