"""The score that a recipe chooses: for the best checkpoint, early stopping and the summary alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import recipe, with_scores

from stillhouse import StillhouseError, prepare, train
from stillhouse.config.run import CheckpointSpec
from stillhouse.tasks import Classification
from stillhouse.training.score import BestScore, Score, find_score


def scored(name: str, **changes: Any) -> Any:
    return recipe(teacher=None, task={"args": {"measure": ["f1"]}}, checkpoints={"score": name}, **changes)


def test_the_chosen_metric_is_the_score_of_the_run(tmp_path: Path):
    ended = train(scored("val/f1", run__epochs=3), out=tmp_path / "run")
    best = ended.summary["best"]
    assert best["val/f1"] == max(epoch["f1"] for epoch in ended.history)


def test_early_stopping_goes_by_it(tmp_path: Path):
    made = scored("val/loss", run__epochs=6, early_stopping={"patience": 2, "min_delta": 10.0})
    stopped = train(made, write=False).summary["stopped"]
    assert stopped is not None
    assert stopped["reason"].startswith("val/loss has not improved")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({}, Score("accuracy", "max")),
        ({"score": "val/loss"}, Score("loss", "min")),
        ({"score": "val/abs_rel"}, Score("abs_rel", "min")),
        ({"score": "val/f1"}, Score("f1", "max")),
        ({"score": "val/f1", "score_mode": "min"}, Score("f1", "min")),
        ({"score_mode": "min"}, Score("accuracy", "min")),
    ],
)
def test_more_or_less_of_it_is_better(spec: dict[str, Any], found: Score):
    assert find_score(CheckpointSpec(**spec), Classification()) == found


def test_of_equal_scores_the_one_with_the_lower_loss_is_the_best_and_patience_goes_on():
    best = BestScore("max")
    for epoch, (score, loss) in enumerate([(0.5, 1.0), (0.5, 0.8), (0.5, 0.9), (0.4, 0.1)], 1):
        best.offer(score, epoch, loss)
    assert (best.epoch, best.waited) == (2, 3)


def test_the_best_checkpoint_is_that_of_the_lower_loss(tmp_path: Path):
    training = prepare(recipe(teacher=None, run__epochs=3), out=tmp_path / "run")
    with_scores(training, [0.5, 0.5, 0.5])
    summary = training.fit().summary
    losses = [epoch["loss"] for epoch in summary["history"]]
    epoch = losses.index(min(losses)) + 1
    assert summary["best"]["epoch"] == epoch
    assert [f.name for f in (tmp_path / "run" / "checkpoints").glob("best_*")] == [f"best_{3 * epoch}.pt"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f1", r'checkpoints.score: must be a metric of the validation split, such as "val/f1", got \'f1\''),
        ("test/f1", "must be a metric of the validation split"),
        ("val/auroc", r"checkpoints.score: the task has no metric 'auroc'.*measure"),
    ],
)
def test_a_score_that_nothing_measures_is_refused_before_training(name: str, says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(scored(name), write=False)


def test_another_score_is_another_run(tmp_path: Path):
    assert scored("val/f1").digest() != scored("val/loss").digest()
    plain = recipe(teacher=None)
    assert plain.digest() == recipe(teacher=None, checkpoints={"keep_every": 2}).digest()
    train(scored("val/f1"), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match=r"checkpoints\.score was 'val/f1' and is 'val/loss'"):
        train(scored("val/loss"), out=tmp_path / "run", resume=True)
