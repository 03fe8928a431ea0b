"""What the figure of costs counts as held for the backward pass."""

from __future__ import annotations

import torch

from stillhouse_experiments.figures.cost import held_bytes


def test_held_bytes_are_those_of_what_the_backward_pass_needs():
    x, y = torch.ones(100, requires_grad=True), torch.ones(100)
    assert held_bytes(lambda: (x * y).sum()) == 400  # y alone: it needs no gradient itself
    assert held_bytes(lambda: (x * x).sum()) == 400
    assert held_bytes(lambda: (x + y).sum()) == 0
