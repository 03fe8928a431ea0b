"""FitNets and VID: what a regressor of the student's features is compared with."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, map_pairs, peer, quick
from support.classics import MAPS, VECTORS, digits
from torch import Tensor, nn

from stillhouse import StillhouseError, prepare
from stillhouse.layout import to_rows
from stillhouse_classics.fitnet import FitNet, hint_loss
from stillhouse_classics.vid import VariationalInformation, information_loss


@quick
@given(map_pairs(same_width=True))
def test_the_hint_loss_is_half_the_mean_square(pair):
    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        gaps = [a - b for a, b in zip(s.flatten(), t.flatten(), strict=True)]
        return sum(gap * gap for gap in gaps) / len(gaps) / 2

    assert_agree(hint_loss, by_hand, *pair)


def test_the_hint_loss_refuses_other_shapes():
    with pytest.raises(StillhouseError, match="as many channels"):
        hint_loss(draw(2, 3, 4, 4), draw(2, 5, 4, 4))
    with pytest.raises(StillhouseError, match="as many positions"):
        hint_loss(draw(2, 3, 4, 4), draw(2, 3, 2, 2))


def test_a_regressor_is_a_convolution_of_the_kernel_that_was_asked_for():
    for kernel, kind in ((1, nn.Linear), (5, nn.Conv2d)):
        training = prepare(digits(MAPS, {"use": "fitnet", "kernel": kernel}), write=False)
        (module,) = training.run.composition.modules_of["fitnet"]
        (found,) = (part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))
        assert isinstance(found, kind)
        assert tuple(found.weight.shape[:2]) == (16, 8)
    with pytest.raises(StillhouseError, match="needs maps"):
        prepare(digits(VECTORS, {"use": "fitnet", "kernel": 3}), write=False)
    with pytest.raises(StillhouseError, match="odd"):
        FitNet(kernel=2)


def density_by_hand(mean: Tensor, variance: Tensor, t: Tensor) -> Tensor:
    """Torch's own normal distribution, less the constant."""
    logs = torch.distributions.Normal(mean, variance.sqrt()).log_prob(t)
    return -(logs + math.log(2 * math.pi) / 2).mean()


@quick
@given(map_pairs(same_width=True))
def test_the_information_is_a_gaussians_density(pair):
    variance = draw(pair[0].shape[1], seed=7).square() + 0.1
    rows = [to_rows(x) for x in pair]
    assert_agree(lambda s, t: information_loss(s, variance, t), lambda s, t: density_by_hand(s, variance, t), *rows)


def test_the_information_beside_torchdistill_with_the_variances_gradient():
    layer = {"path": "x", "io": "output"}
    theirs = peer().VIDLoss({"pair": {"student": layer, "teacher": layer}})
    mean, t, variance = draw(4, 3), draw(4, 3, seed=1), draw(3, seed=2).square() + 0.1
    beside = lambda v, other: theirs({"x": {"output": (mean, v)}}, io(x=other))  # noqa: E731
    assert_agree(lambda v, other: information_loss(mean, v, other), beside, variance, t)


def test_the_variances_start_where_the_option_says():
    training = prepare(digits(VECTORS, {"use": "vid", "variance": 3.0}), write=False)
    (module,) = training.run.composition.modules_of["vid"]
    torch.testing.assert_close(nn.functional.softplus(module.raw) + 1e-5, torch.full((32,), 3.0))
    with pytest.raises(StillhouseError, match="variance"):
        VariationalInformation(variance=0.0)
