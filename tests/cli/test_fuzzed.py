"""Ten thousand recipes, a thousand command lines and five hundred damaged files end in success or in one message."""

from __future__ import annotations

import pytest
from support.fuzzed_recipes import bases, try_recipes
from support.fuzzing import Failure, run_child


def told(failures: list[Failure]) -> str:
    return "\n\n".join(f"{f.error}\n{f.what[:500]}\n{f.trace[-800:]}" for f in failures[:5])


def test_recipes_with_mistakes_are_read_or_refused():
    failures = [failure for failure in try_recipes(0, 250, build=False) if failure]
    assert not failures, told(failures)


def test_every_shipped_recipe_is_among_them():
    assert len(bases()) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "count"), [*[("recipes", s, 1000) for s in range(10)], ("commands", 0, 1000), ("files", 0, 500)]
)
def test_what_nobody_meant_is_done_or_refused(kind: str, seed: int, count: int):
    tried, failures = run_child(kind, seed, count)
    assert not failures, told(failures)
    assert tried == count
