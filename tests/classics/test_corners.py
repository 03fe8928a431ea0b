"""Where the classics' formulas end: layers that start at zero, frozen or dead ones, other teachers, samples alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.agreement import draw
from support.classics import digits, read
from torch import Tensor, nn

from stillhouse import StillhouseError, prepare, train
from stillhouse.models import convnet
from stillhouse_classics.dist import correlation_loss
from stillhouse_classics.logit_std import standardise, standardised_loss
from stillhouse_classics.nst import selectivity_loss
from stillhouse_classics.rkd import distance_loss, relation_loss

NAMES = [str(i) for i in range(10)]
PERMUTED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


class TwoHeads(nn.Module):
    """Answers with the mean of two last layers, as some transformers do."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = convnet(10, width=width, in_channels=1)
        self.pool = nn.Flatten()
        self.first, self.second = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.pool(x)
        return (self.first(flat) + self.second(flat)) / 2


class FrozenStem(nn.Module):
    """A linear layer and a batch normalisation that are frozen, and a head that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(64, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 10)
        nn.init.constant_(self.stem.weight, 0.125)
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x.flatten(1))))


def test_a_reused_classifier_has_the_students_order(tmp_path: Path):
    torch.manual_seed(0)
    teacher = convnet(10, width=8, in_channels=1)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    given = {
        "model": "stillhouse.models:convnet",
        "args": {"width": 8},
        "checkpoint": str(tmp_path / "teacher.pt"),
        "normalize": "same",
        "classes": [NAMES[i] for i in PERMUTED],
    }
    training = prepare(digits({"use": "simkd", "features": "pool"}, {"use": "logits"}, teacher=given), write=False)
    own = training.run.student.head.classifier
    order = [PERMUTED.index(i) for i in range(10)]
    assert torch.equal(own.weight, teacher.head.weight[order])
    assert torch.equal(own.bias, teacher.head.bias[order])
    training.close()
    few = {**given, "classes": [f"class {i}" for i in range(10)]}
    with pytest.raises(StillhouseError, match="are none of the teacher's"):
        prepare(digits({"use": "simkd", "features": "pool"}, teacher=few), write=False)


SIMKD = {"use": "simkd", "features": "pool"}
TWO_TEACHERS = {"big": {"model": "stillhouse.models:convnet", "args": {"width": 12}, "random": True}}


@pytest.mark.parametrize(
    ("plugins", "tables", "says"),
    [
        ([SIMKD], {"student": {"model": "test_corners:TwoHeads"}}, "'second' gives must be the student's output"),
        ([{**SIMKD, "features": "stage*"}], {}, r"features: must be one layer of \[teacher\].*stage1, stage2"),
        (
            [{**SIMKD, "features": "big:pool"}],
            {"teachers": TWO_TEACHERS},
            r"must be one layer of \[teacher\].*big:pool",
        ),
        ([SIMKD, {**SIMKD, "name": "again"}], {}, "is not all of it|two plugins give the student"),
        ([read("stage2"), {"use": "ofd", "norms": ["stage*"]}], {}, "must be one BatchNorm"),
        (
            [read("stage3", pool="mean"), {"use": "crd", "dim": 8, "temperature": 0.01}],
            {},
            r"temperature \(crd\): must be >= 0.015",
        ),
    ],
)
def test_what_belongs_together_is_checked(
    plugins: list[Any], tables: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(StillhouseError, match=says):
        prepare(digits(*plugins, **tables), write=False)


def test_margins_are_read_of_a_further_teacher():
    link = {
        "use": "features",
        "distance": "none",
        "links": [{"student": "stage2", "teacher": "big:stage2.0.1", "pool": "none"}],
    }
    made = digits(link, {"use": "ofd", "norms": ["big:stage2.0.1"]}, teachers=TWO_TEACHERS)
    training = prepare(made, write=False)
    assert training.run.teachers["big"].stage2[0][1].weight.shape == (24,)
    training.close()


def test_peers_keep_what_is_frozen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = digits({"use": "mutual", "peers": 2}, teacher=None, student={"model": "test_corners:FrozenStem"})
    training = prepare(made, write=False)
    for peer in training.run.module("mutual"):
        assert torch.equal(peer.stem.weight, torch.full((8, 64), 0.125))
        assert not torch.equal(peer.head.weight, training.run.student.head.weight)
    training.close()


def test_dead_channels_count_in_the_width_of_the_gaussian():
    s, t = draw(2, 6, 5, 5), draw(2, 4, 5, 5, seed=1)
    s[:, :3] = 0
    a, b = (x.flatten(2) / x.flatten(2).norm(dim=2, keepdim=True).clamp(min=1e-12) for x in (s, t))
    m = torch.cdist(a, b).square().mean((1, 2), keepdim=True)
    kernel = lambda x, y: torch.exp(-torch.cdist(x, y).square() / (2 * m)).mean((1, 2))  # noqa: E731
    expected = (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)).mean()
    torch.testing.assert_close(selectivity_loss(s, t, "gaussian"), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_the_same_throughout_get_no_gradient_and_others_theirs(dtype: torch.dtype):
    teacher = draw(6, 10, seed=1).to(dtype)
    student = draw(6, 10).to(dtype)
    student[2] = 0.1  # as all rows are of a layer that starts at zero
    for loss in (correlation_loss, standardised_loss):
        x = student.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x, teacher), x)
        assert gradient[2].abs().max() < 1e-3
        rest = [0, 1, 3, 4, 5]
        y = student[rest].clone().requires_grad_()
        (alone,) = torch.autograd.grad(loss(y, teacher[rest]), y)
        torch.testing.assert_close(gradient[rest], alone * 5 / 6, rtol=1e-5, atol=1e-9)
    assert torch.equal(standardise(student)[2], torch.zeros(10, dtype=dtype))


@pytest.mark.parametrize("use", ["dist", "logit_std"])
def test_a_head_that_starts_at_zero_learns(use: str):
    student = convnet(10, width=4, in_channels=1)
    nn.init.zeros_(student.head.weight)
    nn.init.zeros_(student.head.bias)
    made = digits({"use": use}, optimizer={"name": "sgd", "lr": 0.01}, student={"model": "-", "given": True})
    result = train(made, student=student, write=False)
    assert result.metrics["val"]["loss"] < 50  # 1e6 where rounding is divided by
    assert 0 < student.head.weight.abs().max() < 10


def test_a_sample_alone_has_no_relations():
    x, y = draw(1, 4).requires_grad_(), draw(1, 4, seed=1)
    for loss in (distance_loss(x, y), relation_loss(x, y)):
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(gradient, torch.zeros_like(x))


def test_a_bank_has_labelled_samples_alone():
    tables = {"data": {"name": "sklearn:digits", "per_class": 2, "pool": "rest", "batch_size": 10}}
    plugins = (read("stage3", pool="mean"), {"use": "crd", "dim": 8, "negatives": 4})
    with pytest.raises(StillhouseError, match=r'data.terms: a bank has the labelled samples alone .terms = "labelled"'):
        prepare(digits(*plugins, **tables), write=False)
    tables["data"]["terms"] = "labelled"
    train(digits(*plugins, **tables), write=False)


@pytest.mark.parametrize("use", ["rkd", "srd"])
def test_parts_with_one_labelled_sample(use: str):
    """19 labelled samples in batches of 8, each in four parts: the last batch has parts with one."""
    net = {"model": "support:TinyNet", "args": {"width": 4}}
    data = {"name": "support:tiny_data", "batch_size": 8, "limit": 19, "pool": "rest", "terms": "labelled"}
    run = {"name": "parts", "epochs": 2, "seed": 3, "device": "cpu", "figures": False, "accumulate": 4}
    link = {"use": "features", "distance": "none", "links": [{"student": "body", "teacher": "body"}]}
    made = digits(link, {"use": use}, run=run, data=data, student=net, teacher={**net, "random": True})
    if use == "rkd":
        assert train(made, write=False).summary["epochs"] == 2
        return
    with pytest.raises(StillhouseError, match=r"a BatchNorm of a plugin has one value a channel.*labelled ones"):
        train(made, write=False)
