"""AB, OFD, LSH: what depends on which side of zero, or of a hyperplane, a response is."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from support.agreement import assert_agree, draw, io, map_pairs, peer, quick
from support.classics import MAPS, VECTORS, digits
from torch import Tensor

from stillhouse import StillhouseError, prepare
from stillhouse_classics.ab import boundary_loss
from stillhouse_classics.lsh import Hashes, hash_loss
from stillhouse_classics.ofd import Margins, find_margins, partial_distance


def boundary_by_hand(s: Tensor, t: Tensor, margin: float) -> Tensor:
    total = 0 * s.sum()
    for a, b in zip(s.flatten(), t.flatten(), strict=True):
        if b > 0 and a < margin:
            total = total + (margin - a) ** 2
        if b <= 0 and a > -margin:
            total = total + (margin + a) ** 2
    return total / s.numel()


@quick
@given(map_pairs(same_width=True))
def test_boundaries_are_the_papers(pair):
    for margin in (0.3, 1.0):
        assert_agree(
            lambda s, t, m=margin: boundary_loss(s, t, m), lambda s, t, m=margin: boundary_by_hand(s, t, m), *pair
        )


def test_boundaries_beside_torchdistill_which_sums_over_a_sample():
    layer = {"path": "x", "io": "output"}
    theirs = peer().AltActTransferLoss({"pair": {"student": layer, "teacher": layer}}, margin=1.0, reduction="mean")
    s, t = draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1)
    assert_agree(boundary_loss, lambda a, b: theirs(io(x=a), io(x=b)), s, t, 1 / 16)


def partial_by_hand(s: Tensor, t: Tensor) -> Tensor:
    total = 0 * s.sum()
    for a, b in zip(s.flatten(), t.flatten(), strict=True):
        if not (a <= b <= 0):
            total = total + (b - a) ** 2
    return total / s.numel()


@quick
@given(map_pairs(same_width=True))
def test_the_partial_distance_is_the_papers(pair):
    assert_agree(partial_distance, partial_by_hand, *pair)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, -1.5), (-1.0, 0.3), (1.2, 0.5)])
def test_a_margin_is_the_expectation_of_what_is_negative(shift: float, scale: float):
    normal = scipy.stats.norm(shift, abs(scale))
    mass, _ = scipy.integrate.quad(normal.pdf, -20, 0)
    mean, _ = scipy.integrate.quad(lambda x: x * normal.pdf(x), -20, 0)
    found = find_margins(torch.tensor([shift], dtype=torch.float64), torch.tensor([scale], dtype=torch.float64))
    torch.testing.assert_close(float(found), mean / mass, rtol=1e-6, atol=0)


def test_what_is_hardly_ever_negative_has_the_margin_of_the_authors_code():
    assert find_margins(torch.tensor([4.0]), torch.tensor([1.0])) == -3.0


def test_margins_without_a_norm_are_the_mean_of_what_was_negative():
    first, second = draw(4, 3, 2, 2).float(), draw(4, 3, 2, 2, seed=1).float()
    own = Margins(first, first, None)
    for x in (first, second):
        own(x, x)
    seen = torch.cat([first, second])
    for channel in range(3):
        negative = seen[:, channel][seen[:, channel] < 0]
        torch.testing.assert_close(own.total[channel] / own.count[channel], negative.mean())


def test_margins_of_a_norm_are_read_off_the_teacher():
    training = prepare(digits(MAPS, {"use": "ofd", "norms": ["stage2.0.1"]}), write=False)
    (own,) = training.run.composition.modules_of["ofd"]
    norm = training.run.teacher.get_submodule("stage2.0.1")
    torch.testing.assert_close(own.total, find_margins(norm.bias.detach(), norm.weight.detach()))
    training.fit()
    torch.testing.assert_close(own.total, find_margins(norm.bias.detach(), norm.weight.detach()))


@pytest.mark.parametrize(
    ("norms", "message"), [(["stage2.0.0"], "BatchNorm"), (["stage2.0.1"] * 2, "one layer for each")]
)
def test_norms_that_are_none_are_refused(norms: list[str], message: str):
    with pytest.raises(StillhouseError, match=message):
        prepare(digits(MAPS, {"use": "ofd", "norms": norms}), write=False)


def test_hashes_are_the_papers():
    weight, bias = draw(7, 3, seed=2), draw(7, seed=3)

    def by_hand(s: Tensor, t: Tensor) -> Tensor:
        total = s.new_zeros(())
        for a, b in zip(s, t, strict=True):
            for w, offset in zip(weight, bias, strict=True):
                chance = 1 / (1 + (-(w @ a + offset)).exp())
                total = total - (chance.log() if w @ b + offset > 0 else (1 - chance).log())
        return total / (len(s) * len(weight))

    assert_agree(lambda s, t: hash_loss(s, t, weight, bias), by_hand, draw(5, 3), draw(5, 3, seed=1))


def test_the_bias_is_the_first_batchs_median_and_stays():
    first, second = draw(5, 3).float(), draw(5, 3, seed=1).float()
    own = Hashes(first, first, 11, None, 0.0)
    own(first, first)
    torch.testing.assert_close(own.bias, -(first @ own.weight.T).median(0).values)
    before = own.bias.clone()
    own(second, second)
    assert torch.equal(own.bias, before)


def test_the_hashes_number_and_scale_are_the_options():
    for options, shape, scale in (({}, (1024, 32), 32**-0.5), ({"hashes": 3000, "scale": 0.01}, (3000, 32), 0.01)):
        training = prepare(digits(VECTORS, {"use": "lsh", **options}), write=False)
        (own,) = training.run.composition.modules_of["lsh"]
        assert tuple(own.weight.shape) == shape
        assert math.isclose(float(own.weight.std()), scale, rel_tol=0.05)
