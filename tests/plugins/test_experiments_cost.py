"""What the figure of costs counts as held for the backward pass."""

from __future__ import annotations

import torch

from stillhouse_experiments.figures.cost import format_difference, held_bytes


def test_held_bytes_are_those_of_what_the_backward_pass_needs():
    x, y = torch.ones(100, requires_grad=True), torch.ones(100)
    assert held_bytes(lambda: (x * y).sum()) == 400  # y alone: it needs no gradient itself
    assert held_bytes(lambda: (x * x).sum()) == 400
    assert held_bytes(lambda: (x + y).sum()) == 0


def test_a_difference_without_a_spread_has_no_interval():
    spread = {"mean": 0.01, "low": 0.004, "high": 0.016, "p_adjusted": 0.03}
    groups = [{"differences": {"none": found}} for found in (spread, {**spread, "low": None, "high": None}, None)]
    told = [format_difference(group, "none") for group in groups]
    assert told == ["+0.0100 [+0.0040, +0.0160] *", "+0.0100", "-"]
