"""Every pair of first-party plugins trains, or is refused with a reason."""

from __future__ import annotations

import pytest
from support.pairs import PAIRS, outcome

REFUSED = {("simkd", "tcs"): "cannot be active together"}
"""Pairs that cannot be together, and what the reason has in it."""


@pytest.mark.slow
@pytest.mark.parametrize("first", sorted({first for first, _ in PAIRS}))
def test_it_trains_with_every_other_or_is_refused_with_a_reason(first: str):
    for one, other in PAIRS:
        if one == first:
            reason = outcome(one, other)
            assert bool(reason) == ((one, other) in REFUSED), (one, other, reason)
            assert REFUSED.get((one, other), "") in reason
