"""Searches: grids that go on where the best is at their end, and what is chosen among equals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from stillhouse import StillhouseError
from stillhouse.experiments.search import Search, find_ends, go_on


def run(search: Search, measure: Callable[[dict[str, Any]], list[float]]) -> list[list[dict[str, Any]]]:
    """Every round of the search, its cells with the scores that ``measure`` gives."""
    rounds = []
    while cells := search.open_cells():
        assert search.open_cells() == cells, "asking changes nothing"
        rounds.append(cells)
        for cell in cells:
            search.add(cell, measure(cell))
    return rounds


def peak(at: float) -> Callable[[dict[str, Any]], list[float]]:
    """The score of a weight, best ``at`` this one."""
    return lambda cell: [-abs(math.log(cell["w"] / at))]


@pytest.mark.parametrize(
    ("values", "value", "beyond"),
    [
        ([0.1, 1.0, 10.0], 10.0, 100.0),
        ([10.0, 0.1, 1.0], 0.1, 0.01),
        ([0.1, 1.0, 10.0], 1.0, None),
        ([1e-3, 3e-3], 3e-3, 9e-3),
        ([0.3, 0.9], 0.3, 0.1),
        ([1, 2, 4], 4, 8),
        ([1, 2, 4], 1, None),  # a count below 1
        ([0, 0.1, 1.0], 0, None),  # no weight is less than none
        ([0, 0.1, 1.0], 1.0, 10.0),
        ([0, 0.1], 0.1, None),  # no ratio
        ([-1.0, 1.0], 1.0, None),
        (["linear", "orthogonal"], "linear", None),
        ([True, False], True, None),
        ([1.0], 1.0, None),
    ],
)
def test_a_scale_goes_on_by_its_own_ratio(values: list[Any], value: Any, beyond: Any):
    assert go_on(values, value) == beyond
    assert find_ends({"w": value, "kind": "a"}, [{"w": each, "kind": "a"} for each in values]) == (
        [] if beyond is None else ["w"]
    )


def test_a_grid_goes_on_until_its_best_is_inside():
    search = Search({"w": [0.1, 1.0, 10.0]}, widen=5)
    rounds = run(search, peak(1000.0))
    assert rounds == [[{"w": 0.1}, {"w": 1.0}, {"w": 10.0}], [{"w": 100.0}], [{"w": 1000.0}], [{"w": 10000.0}]]
    assert search.best.settings == {"w": 1000.0}
    assert search.ends == []


def test_a_grid_goes_on_no_further_than_it_may_and_says_that_its_best_is_at_the_end():
    search = Search({"w": [0.1, 1.0, 10.0]}, widen=1)
    assert run(search, peak(1000.0))[1:] == [[{"w": 100.0}]]
    assert (search.best.settings, search.ends) == ({"w": 100.0}, ["w"])
    narrow = Search({"w": [0.1, 1.0, 10.0]})
    assert len(run(narrow, peak(1000.0))) == 1
    assert narrow.ends == ["w"]


def test_a_further_value_of_one_key_is_tried_with_every_value_of_the_others():
    search = Search({"lr": [1.0, 2.0], "w": [1.0, 10.0, 100.0], "kind": ["a", "b"]}, mode="min", widen=2)
    rounds = run(search, lambda cell: [abs(cell["lr"] - 2.0) + abs(cell["w"] - 10.0) + (cell["kind"] == "a")])
    assert len(rounds[0]) == 12
    assert rounds[1:] == [[{"lr": 4.0, "w": w, "kind": kind} for w in (1.0, 10.0, 100.0) for kind in "ab"]]
    assert search.best.settings == {"lr": 2.0, "w": 10.0, "kind": "b"}
    assert search.ends == []


def test_what_noise_does_not_tell_from_the_best_is_chosen_where_it_is_further_inside():
    scores = {0.1: [0.80, 0.80], 1.0: [0.88, 0.92], 10.0: [0.93, 0.88]}
    search = Search({"w": list(scores)}, widen=3)
    assert len(run(search, lambda cell: scores[cell["w"]])) == 1
    assert search.best.settings == {"w": 1.0}  # 0.5 points less, with an error of 4.5
    clear = Search({"w": list(scores)})
    scores[10.0] = [0.93, 0.98]
    run(clear, lambda cell: scores[cell["w"]])
    assert clear.best.settings == {"w": 10.0}  # 5.5 points more, with an error of 0.5


def test_of_equals_under_one_seed_the_inner_one_is_chosen_and_then_the_first():
    search = Search({"w": [1.0, 2.0, 4.0, 8.0]})
    run(search, lambda _: [0.5])
    assert search.best.settings == {"w": 2.0}


def test_a_value_that_fails_is_never_chosen_and_ends_the_grid_on_its_side():
    search = Search({"w": [0.1, 1.0, 10.0]}, widen=5)
    run(search, lambda cell: [cell["w"], float("nan") if cell["w"] > 10 else cell["w"]])
    assert (search.best.settings, search.ends) == ({"w": 10.0}, [])
    assert [each.mean for each in search.tried] == [0.1, 1.0, 10.0, None]
    none = Search({"w": [0.1, 1.0]}, widen=5)
    assert len(run(none, lambda _: [])) == 1
    with pytest.raises(StillhouseError, match="no value has a finite score under every seed"):
        _ = none.best
