"""A schedule's fractions are those that are written, in whole steps, whatever float makes of them."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse import Schedule, StillhouseError

HUNDREDTHS = st.integers(1, 99)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(HUNDREDTHS, st.integers(2, 400), st.sampled_from(["none", "linear", "cosine"]))
def test_a_warm_up_reaches_its_peak_in_its_last_step(hundredths: int, total: int, decay: str):
    schedule = Schedule(peak=0.3, warmup=hundredths / 100, decay=decay)  # type: ignore[arg-type]
    length = math.ceil(Fraction(hundredths, 100) * total)
    values = [schedule.at(step, total) for step in range(total)]
    assert values[length - 1] == 0.3
    assert all(earlier < later for earlier, later in pairwise(values[:length]))
    assert all(later <= earlier for earlier, later in pairwise(values[length - 1 :]))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(HUNDREDTHS, st.integers(2, 400))
def test_a_value_is_0_from_until_on(hundredths: int, total: int):
    schedule = Schedule(until=hundredths / 100)
    on = sum(schedule.at(step, total) > 0 for step in range(total))
    assert on == math.ceil(Fraction(hundredths, 100) * total)


@pytest.mark.parametrize(("warmup", "total"), [(0.28, 25), (0.56, 25), (0.14, 50), (0.56, 50), (0.07, 100)])
def test_where_a_product_of_floats_is_a_step_too_long(warmup: float, total: int):
    length = round(warmup * total)
    assert warmup * total > length
    assert Schedule(warmup=warmup).at(length - 1, total) == 1.0


def test_a_warm_up_as_long_as_until_is_no_fault():
    assert 0.57 * 100 < 57
    steps = Schedule(warmup_steps=57, until=0.57).to_steps(100, 10)
    assert steps.at(56, 100) == 1.0
    assert steps.at(57, 100) == 0.0
    with pytest.raises(StillhouseError, match="got 58 steps: the value is 0 from step 57 on"):
        Schedule(warmup_steps=58, until=0.57).to_steps(100, 10)
