"""CRD, mean teacher, mutual learning and SimKD: methods that keep embeddings, copies or the teacher's last layer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from support import same_state
from support.agreement import assert_agree, draw, peer
from support.classics import VECTORS, digits
from torch import Tensor

from stillhouse import StillhouseError, load_student, prepare, train
from stillhouse.contract.assembly import Rows
from stillhouse.loop.phases import Phase
from stillhouse_classics.crd import Banks, ContrastiveDistillation, contrast_loss
from stillhouse_classics.mean_teacher import consistency_loss
from stillhouse_classics.mutual import cohort_loss
from stillhouse_classics.simkd import ReusedHead, feature_loss


def contrast_by_hand(scores: Tensor, samples: int) -> Tensor:
    total, k = scores.new_zeros(()), scores.shape[1] - 1
    for row in scores:
        h = [score / (score + k / samples + 1e-7) for score in row]
        missed = [(k / samples) / (score + k / samples + 1e-7) for score in row[1:]]
        total = total - h[0].log() - sum(x.log() for x in missed)
    return total / len(scores)


def test_the_contrast_is_the_papers_and_torchdistills():
    scores = draw(4, 6).exp()
    assert_agree(lambda s, _: contrast_loss(s, 30), lambda s, _: contrast_by_hand(s, 30), scores, scores)
    theirs = peer().CRDLoss.__new__(peer().CRDLoss)
    torch.nn.Module.__init__(theirs)
    theirs.num_samples, theirs.eps = 30, 1e-7
    beside = lambda s, _: theirs.compute_contrast_loss(s[:, :, None]).squeeze()  # noqa: E731
    assert_agree(lambda s, _: contrast_loss(s, 30), beside, scores, scores)


def test_a_banks_rows_follow_their_samples_and_no_other():
    torch.manual_seed(0)
    s, t, ids = draw(3, 4).float(), draw(3, 6, seed=1).float(), torch.tensor([5, 1, 7])
    options = ContrastiveDistillation(dim=8, negatives=4, momentum=0.25)
    own = Banks(s, t, Rows(10, lambda: torch.arange(10)), 8)
    before = own.banks.clone()
    loss = own.contrast(s, t, ids, options)
    assert loss.isfinite()
    assert (own.constants > 0).all()
    embedded = [head(x) / head(x).norm(dim=1, keepdim=True) for head, x in zip(own.heads, (s, t), strict=True)]
    for side in range(2):
        for row, i in enumerate(ids.tolist()):
            mixed = 0.25 * before[side, i] + 0.75 * embedded[side][row]
            torch.testing.assert_close(own.banks[side, i], mixed / mixed.norm())
        rest = [i for i in range(10) if i not in ids.tolist()]
        assert torch.equal(own.banks[side, rest], before[side, rest])
    constants = own.constants.clone()
    own.contrast(s, t, ids, options)
    assert torch.equal(own.constants, constants)


def test_the_contrast_reaches_both_embeddings_and_needs_the_samples_ids():
    training = prepare(digits(VECTORS, {"use": "crd", "dim": 16, "negatives": 8}), write=False)
    (own,) = training.run.composition.modules_of["crd"]
    start = copy.deepcopy(own.state_dict())
    training.fit()
    assert not any(torch.equal(start[key], value) for key, value in own.state_dict().items())
    assert own.banks.shape == (2, 20, 16)


def test_consistency_is_the_papers():
    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        p, q = (x.exp() / x.exp().sum(1, keepdim=True) for x in (s, t))
        return sum((a - b) ** 2 for a, b in zip(p.flatten(), q.flatten(), strict=True)) / s.numel()

    assert_agree(consistency_loss, by_hand, draw(4, 5), draw(4, 5, seed=1))


def test_the_average_is_of_parameters_and_its_statistics_are_the_students():
    training = prepare(digits({"use": "mean_teacher", "decay": 0.75}, teacher=None), write=False)
    run = training.run
    average = run.composition.modules_of["mean_teacher"]
    expected = {name: p.detach().clone() for name, p in average.named_parameters()}

    def follow() -> None:
        for name, p in run.student.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p.detach()

    run.trainer.add_event_handler(Phase.OPTIMIZER_STEPPED, follow)
    training.fit()
    for name, p in average.named_parameters():
        torch.testing.assert_close(p, expected[name])
    assert same_state(dict(average.named_buffers()), dict(run.student.named_buffers()))


def test_a_cohort_is_the_papers():
    others = [draw(4, 5, seed=n) for n in (1, 2)]

    def by_hand(s: Tensor, _: Tensor) -> Tensor:
        q = s.exp() / s.exp().sum(1, keepdim=True)
        ps = [x.exp() / x.exp().sum(1, keepdim=True) for x in others]
        return sum((p * (p / q).log()).sum(1).mean() for p in ps) / 2

    assert_agree(lambda s, _: cohort_loss(s, others), by_hand, draw(4, 5), others[0])


def test_peers_start_elsewhere_and_learn():
    training = prepare(digits({"use": "mutual", "peers": 2}, teacher=None), write=False)
    run = training.run
    peers = run.composition.modules_of["mutual"]
    starts = [copy.deepcopy(x.state_dict()) for x in (run.student, *peers)]
    assert not any(torch.equal(starts[0]["head.weight"], other["head.weight"]) for other in starts[1:])
    assert not torch.equal(starts[1]["head.weight"], starts[2]["head.weight"])
    training.fit()
    for start, network in zip(starts, (run.student, *peers), strict=True):
        assert not torch.equal(start["head.weight"], network.state_dict()["head.weight"])


def test_the_reused_features_are_the_papers():
    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        return sum((a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True)) / s.numel()

    assert_agree(feature_loss, by_hand, draw(4, 5), draw(4, 5, seed=1))


REUSED = {"use": "simkd", "features": "pool"}


def test_the_student_has_the_teachers_classifier_for_good_and_learns_by_features_alone(tmp_path: Path):
    training = prepare(digits(REUSED), out=tmp_path / "run")
    run, totals = training.run, []
    run.trainer.add_event_handler(
        Phase.LOSSES_COMPUTED,
        lambda e: totals.append((e.state.step.total.detach(), e.state.step.losses["simkd"].detach())),
    )
    head = run.student.head
    assert isinstance(head, ReusedHead)
    training.fit()
    torch.testing.assert_close(head.classifier.weight, run.teacher.head.weight)
    torch.testing.assert_close(head.classifier.bias, run.teacher.head.bias)
    assert all(torch.equal(total, loss) for total, loss in totals)
    loaded = load_student(tmp_path / "run")
    x = draw(2, 1, 8, 8).float()
    torch.testing.assert_close(loaded(x), run.student.eval()(x))


def test_labels_may_count_beside_the_features():
    alone, both = (train(digits({**REUSED, "labels": labels}), write=False) for labels in (False, True))
    assert not same_state(alone.student.state_dict(), both.student.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "stage3"}, "last linear layer"),
        ({"features": "pool", "head": "stage1"}, "'stage1' is no linear layer"),
        ({"features": "pool", "teacher_head": "nothing"}, "'nothing' is no linear layer"),
        ({"features": "pool", "reduction": 0}, "reduction"),
    ],
)
def test_what_does_not_fit_is_named(options, message: str):
    with pytest.raises(StillhouseError, match=message):
        prepare(digits({"use": "simkd", **options}), write=False)
