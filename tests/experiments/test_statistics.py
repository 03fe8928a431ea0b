"""The statistics of comparisons against SciPy and simulation, and what of them a table shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stillhouse import StillhouseError
from stillhouse.experiments import holm, paired_difference, t_interval, welch_difference
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.sensitivity import check_spread, describe_detectable, foretell
from stillhouse.experiments.statistics import smallest_detectable
from stillhouse.experiments.tables import to_markdown

numbers = st.floats(-10, 10).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12).filter(
    lambda found: np.ptp([a - b for a, b in found]) > 1e-2
)


@given(pairs, st.sampled_from([0.8, 0.95, 0.99]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_paired_differences_are_scipys(values: list[tuple[float, float]], level: float):
    a, b = (list(side) for side in zip(*values, strict=True))
    found = paired_difference(a, b, level)
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(level)
    assert found.ties == sum(x == y for x, y in values)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7, abs=1e-7)
    if found.test == "t":
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert found.n == len(a)
    assert found.paired


@given(
    st.lists(numbers, min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-2),
    st.lists(numbers, min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-2),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_unpaired_differences_are_scipys_welch(a: list[float], b: list[float]):
    found = welch_difference(a, b)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7, abs=1e-7)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert not found.paired


def test_the_interval_of_a_mean_is_scipys():
    x = [0.91, 0.88, 0.93, 0.9]
    theirs = stats.t.interval(0.95, 3, loc=np.mean(x), scale=stats.sem(x))
    assert t_interval(x) == pytest.approx(theirs)


def test_too_few_and_equal_values_have_no_interval_and_no_nan():
    assert t_interval([0.5]) is None
    one = paired_difference([0.5], [0.25])
    assert (one.mean, one.low, one.high, one.p, one.detectable) == (0.25, None, None, None, None)
    # One image more in each of two seeds is no certainty, and rounding is no spread.
    for a, b, mean in (
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
        ([1.5, 2.5], [1.0, 2.0], 0.5),
        ([0.9028, 0.8], [0.9, 0.7972], 0.0028),
    ):
        found = paired_difference(a, b)
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high, found.detectable) == (None, None, None)
        assert found.test == "sign-flip"
        assert found.p == (1.0 if mean == 0 else 2 / 2 ** len(a)), "of two signs or three, none is unlikely"
    assert welch_difference([1.0, 1.0], [2.0, 2.0]).p is None
    assert welch_difference([1.0], [2.0, 3.0]).low is None
    with pytest.raises(StillhouseError, match="as many measurements of both, at least 1, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_the_detectable_difference_is_found_four_times_in_five():
    generator = np.random.default_rng(0)
    for n, alpha in ((3, 0.05), (10, 0.05), (6, 0.01)):
        true = smallest_detectable(2.0, n, alpha)
        x = generator.normal(true, 2.0, (40_000, n))
        found = stats.ttest_1samp(x, 0.0, axis=1).pvalue < alpha
        assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_the_detectable_difference_agrees_with_the_noncentral_t():
    shift = smallest_detectable(1.0, 10, 0.05) * math.sqrt(10)
    assert stats.nct.sf(stats.t.ppf(0.975, 9), 9, shift) == pytest.approx(0.8, abs=1e-4)


def test_holms_correction_by_hand():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never falling
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_groups_are_paired_by_the_seeds_they_share():
    base = Group("base", {0: 0.5, 1: 0.6, 2: 0.7}, against={"base": "base"})
    paired = Group("paired", {1: 0.8, 2: 0.8, 9: 0.1}, against={"base": "base"})
    apart = Group("apart", {7: 0.8, 8: 0.9}, against={"base": "base"})
    lone = Group("lone", {5: 0.8}, against={"base": "base"})
    rows = {row.group.name: row for row in compare_groups("test/accuracy", [base, paired, apart, lone]).rows}
    assert rows["base"].differences["base"] is None
    found = rows["paired"].differences["base"]
    assert found is not None
    assert found.n == 2
    assert found.mean == pytest.approx((0.2 + 0.1) / 2)
    unpaired = rows["apart"].differences["base"]
    assert unpaired is not None
    assert not unpaired.paired
    assert unpaired.mean == pytest.approx(0.85 - 0.6)
    assert rows["lone"].differences["base"] is None
    assert rows["lone"].mean == 0.8


def test_what_runs_could_not_see_is_named_for_each_reference():
    generator = np.random.default_rng(2)
    values = {name: dict(enumerate(generator.normal(0.9, 0.01, 4).tolist())) for name in ("none", "one", "two")}
    found = compare_groups("m/x", [Group(name, of, against={"none": "none"}) for name, of in values.items()])
    ends = sorted(row.differences["none"].detectable for row in found.rows[1:])
    assert describe_detectable(found, "none") == f"{ends[0]:.4f} to {ends[1]:.4f}"
    assert f"probability 0.8; against none {ends[0]:.4f} to {ends[1]:.4f}." in to_markdown(found)
    assert found.families == {"none": 2}
    assert found.to_dict()["families"] == {"none": {"correction": "Holm", "comparisons": 2}}


def test_what_so_many_seeds_can_see_is_told_before_they_run():
    told = foretell(3, [4, 2], 0.02)
    assert f"only from {smallest_detectable(0.02, 3, 0.05 / 4):.3g} on" in told
    assert f"6 seeds from {smallest_detectable(0.02, 6, 0.05 / 4):.2g} on" in told
    assert "0.02 (as stated, corrected for 4 comparisons)" in told
    assert "by 0.01 (which is assumed, --sd says another)" in foretell(5, [1])
    assert foretell(1, [4]).startswith("With one seed no difference is tested")
    for spread in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(StillhouseError, match=r"--sd: must be a number > 0, got"):
            check_spread(spread)


def test_differences_without_spread_have_no_star_and_a_line_that_says_why():
    values = {"none": {0: 0.9, 1: 0.8}, "one": {0: 0.91, 1: 0.81}, "two": {0: 0.91, 1: 0.84}}
    groups = [Group(name, found, against={"none": "none"}) for name, found in values.items()]
    text = to_markdown(compare_groups("test/accuracy", groups))
    assert "| one | 2 | 0.8600 ± 0.0707 | +0.0100 e | \u2013 |" in text
    assert "for the 2 comparisons of the column" in text
    assert "e: tested by flipping signs" in text
    assert "A difference without an interval is the same for each pair of runs" in text


def test_correction_counts_the_comparisons_of_a_column():
    generator = np.random.default_rng(1)
    groups = [
        Group(f"arm {k}", dict(enumerate(generator.normal(k / 10, 0.1, 5).tolist())), against={"none": "arm 0"})
        for k in range(4)
    ]
    rows = compare_groups("test/accuracy", groups).rows
    raw = [row.differences["none"].p for row in rows[1:]]
    assert [row.adjusted["none"] for row in rows[1:]] == pytest.approx(holm(raw))
    expected = smallest_detectable(
        float(np.std([groups[1].values[s] - groups[0].values[s] for s in range(5)], ddof=1)), 5, 0.05 / 3
    )
    assert rows[1].differences["none"].detectable == pytest.approx(expected)
