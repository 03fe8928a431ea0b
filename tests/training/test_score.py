"""The best score: which epoch it is, whatever the scores are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support import recipe, with_scores

from stillhouse import prepare
from stillhouse.training.score import BestScore

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "mode", "best", "waited"),
    [
        ([0.1, 0.3, 0.2], "max", 2, 1),
        ([0.1, 0.3, 0.2], "min", 1, 2),
        ([0.2, 0.2, 0.2], "max", 1, 2),  # of equals the first
        ([NAN, 0.1, 0.2, NAN], "max", 3, 1),
        ([NAN, 0.2, 0.1], "min", 3, 0),
        ([0.2, NAN, 0.1], "max", 1, 2),
        ([NAN, NAN], "max", None, 2),
        ([-INF, -INF, 0.0], "max", 3, 0),
        ([INF, INF], "min", 1, 1),  # bad, and a score
        ([], "max", None, 0),
    ],
)
def test_the_best_is_the_first_of_the_greatest_and_never_a_nan(
    scores: list[float], mode: str, best: int | None, waited: int
):
    found = BestScore(mode)
    for epoch, score in enumerate(scores, 1):
        found.offer(score, epoch)
    assert (found.epoch, found.waited) == (best, waited)
    assert math.isnan(found.value) if best is None else found.value == scores[best - 1]


def test_a_score_that_was_nan_in_the_first_epoch_does_not_stay_the_best(tmp_path: Path):
    training = prepare(recipe(teacher=None, run__epochs=4), out=tmp_path / "run")
    with_scores(training, [NAN, 0.4, 0.6, NAN])
    result = training.fit()
    assert result.summary["best"] == {"epoch": 3, "val/accuracy": 0.6}
    assert [f.name for f in (tmp_path / "run" / "checkpoints").glob("best_*")] == ["best_9.pt"]


def test_a_run_whose_scores_are_all_nan_has_no_best(tmp_path: Path):
    training = prepare(recipe(teacher=None), out=tmp_path / "run")
    with_scores(training, [NAN, NAN])
    assert training.fit().summary["best"] is None
    assert not list((tmp_path / "run" / "checkpoints").glob("best_*"))
