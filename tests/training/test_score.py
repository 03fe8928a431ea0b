"""The best score: which epoch it is, whatever the scores are."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from ignite.metrics import Metric
from support import recipe, with_scores

from stillhouse import StillhouseError, StillhouseWarning, prepare, train
from stillhouse.tasks import Classification
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
        ([-INF, INF, 0.0], "max", 3, 0),
        ([INF, INF], "min", None, 2),  # no scores either
        ([INF, 0.5, -INF], "min", 2, 1),
        ([], "max", None, 0),
    ],
)
def test_the_best_is_the_first_of_the_greatest_and_always_finite(
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
    with pytest.warns(StillhouseWarning, match="val/accuracy not finite after epoch 1") as told:
        result = training.fit()
    assert len(told) == 1  # of each metric once
    assert result.summary["best"] == {"epoch": 3, "val/accuracy": 0.6}
    assert [f.name for f in (tmp_path / "run" / "checkpoints").glob("best_*")] == ["best_9.pt"]


def test_a_run_whose_scores_are_all_nan_has_no_best(tmp_path: Path):
    training = prepare(recipe(teacher=None), out=tmp_path / "run")
    with_scores(training, [NAN, NAN])
    with pytest.warns(StillhouseWarning, match="an epoch without a score cannot be the best"):
        summary = training.fit().summary
    assert summary["best"] is None
    told = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert told == summary
    assert told["metrics"]["val"]["accuracy"] is None
    assert [epoch["accuracy"] for epoch in told["history"]] == [None, None]
    assert not list((tmp_path / "run" / "checkpoints").glob("best_*"))


def test_a_run_that_is_complete_gives_nan_again_where_json_has_null(tmp_path: Path):
    training = prepare(recipe(teacher=None), out=tmp_path / "run")
    with_scores(training, [0.5, NAN])
    with pytest.warns(StillhouseWarning, match="not finite after epoch 2"):
        first = training.fit()
    again = train(recipe(teacher=None), out=tmp_path / "run", resume=True)
    assert again.summary == first.summary
    assert math.isnan(again.metrics["val"]["accuracy"])
    assert again.metrics["test"] == first.metrics["test"]


class NumPys(Metric):
    """The share of right answers as NumPy gives it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(lambda out: (out["output"], out["target"]))

    def reset(self) -> None:
        self.right: list[Any] = []

    def update(self, output: Any) -> None:
        self.right.append((output[0].argmax(1) == output[1]).float().numpy())

    def compute(self) -> Any:
        share = np.concatenate(self.right).mean()
        kinds = {"scalar": share, "array": np.array([share]), "fraction": Fraction(float(share)), "word": "much"}
        return kinds[self.kind]


@attrs.frozen(kw_only=True)
class ByNumPy(Classification):
    """Goes by such a number."""

    score = "share"
    kind: str = "scalar"

    def metrics(self, data: Any) -> dict[str, Metric]:
        return {"share": NumPys(self.kind), **super().metrics(data)}


@pytest.mark.parametrize("kind", ["scalar", "array", "fraction"])
def test_a_number_of_any_library_is_a_metric_and_a_score(tmp_path: Path, kind: str):
    task = {"name": f"{__name__}:ByNumPy", "args": {"kind": kind}}
    result = train(recipe(teacher=None, task=task), out=tmp_path / "run")
    for split in ("val", "test"):
        assert result.metrics[split]["share"] == pytest.approx(result.metrics[split]["accuracy"])
    assert result.summary["best"]["val/share"] == pytest.approx(max(e["accuracy"] for e in result.history))
    assert list((tmp_path / "run" / "checkpoints").glob("best_*"))


def test_a_score_that_is_no_number_is_refused():
    task = {"name": f"{__name__}:ByNumPy", "args": {"kind": "word"}}
    with pytest.raises(StillhouseError, match=r"the task.s score .share.: must be one number.*got str"):
        train(recipe(teacher=None, task=task), write=False)
