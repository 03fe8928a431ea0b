"""The exact sign-flip test against SciPy's and against trying every choice of signs, and where comparisons take it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stillhouse import StillhouseError
from stillhouse.experiments import paired_difference
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.statistics import sign_flip_p
from stillhouse.experiments.tables import to_markdown

STEP = 1 / 450
"""Of the accuracy on as many samples."""
steps = st.lists(st.integers(-6, 6), min_size=1, max_size=9)


@given(steps)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_its_p_is_that_of_every_choice_of_signs(counts: list[int]):
    sums = [
        abs(sum(s * c for s, c in zip(signs, counts, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(counts))
    ]
    expected = float(np.mean(np.asarray(sums) >= abs(sum(counts))))
    assert sign_flip_p([STEP * count for count in counts]) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8).filter(lambda x: np.ptp(x) > 1e-3))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_its_p_is_scipys(values: list[float]):
    theirs = stats.permutation_test((np.asarray(values),), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_twenty_pairs_are_the_most_whose_signs_are_flipped():
    values = np.random.default_rng(0).normal(0.3, 1.0, 20).tolist()
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)
    with pytest.raises(StillhouseError, match="the signs of at most 20 pairs can be flipped, got 21"):
        sign_flip_p([*values, 1.0])
    assert sign_flip_p([0.5] * 30) == 2.0**-29


@pytest.mark.parametrize(
    ("counts", "test"),
    [
        ([1, 2, 3, 4, 5], "t"),
        ([0, 2, 3, 4, 5], "sign-flip"),  # a tie
        ([2, 2, 3, 3], "sign-flip"),  # coarse steps
        ([2, 2, 3, 4], "t"),
        ([1, 1, 1], "sign-flip"),
        ([0, *range(1, 21)], "t"),  # more than can be flipped
    ],
)
def test_ties_and_coarse_steps_are_tested_exactly(counts: list[int], test: str):
    base = [0.8 + 0.01 * k for k in range(len(counts))]
    found = paired_difference([b + STEP * c for b, c in zip(base, counts, strict=True)], base)
    assert found.test == test
    assert found.ties == counts.count(0)
    if test == "sign-flip":
        assert found.p == pytest.approx(sign_flip_p(counts))
        assert (found.low is None) == (len(set(counts)) == 1)
        assert found.p is not None
        assert found.p >= 2 / 2 ** len(counts)


def test_a_table_marks_the_test_and_counts_the_ties():
    groups = [
        Group("none", {0: 0.9, 1: 0.8, 2: 0.7}, against={"none": "none"}),
        Group("tied", {0: 0.9, 1: 0.82, 2: 0.71}, against={"none": "none"}),
        Group("apart", {0: 0.93, 1: 0.81, 2: 0.78}, against={"none": "none"}),
    ]
    text = to_markdown(compare_groups("m/x", groups))
    rows = {line.split(" |")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "] e |" in rows["tied"]
    assert " e |" not in rows["apart"]
    assert "Ties, pairs of two equal values: tied − none: 1 of 3." in text  # noqa: RUF001 - a minus sign
    assert "p is no less than 2 / 2^n" in text
