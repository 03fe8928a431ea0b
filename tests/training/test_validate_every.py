"""``run.validate_every``: which epochs are measured, and that nothing else of the run is another for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from support import FIVE, interrupted, recipe, same_state, with_scores

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare, train


def accuracies(result: Any) -> list[float | None]:
    return [epoch.get("accuracy") for epoch in result.history]


@pytest.mark.parametrize(("every", "measured"), [(2, {2, 4, 5}), (3, {3, 5}), (5, {5}), (9, {5})])
def test_so_many_epochs_are_left_out_and_the_last_one_never(every: int, measured: set[int], tmp_path: Path):
    usual = train(recipe(*FIVE.values(), run__epochs=5), write=False)
    result = train(recipe(*FIVE.values(), run__epochs=5, run__validate_every=every), out=tmp_path / "run")
    assert same_state(result.student.state_dict(), usual.student.state_dict())
    assert result.metrics == usual.metrics
    assert result.history == [e if n in measured else {} for n, e in enumerate(usual.history, 1)]
    assert result.metrics["val"].items() >= result.history[-1].items()


@pytest.mark.parametrize(("scores", "best"), [([0.9, 0.2, 0.8, 0.3, 0.1], 4), ([0.1, 0.9, 0.9, 0.2, 0.3], 2)])
def test_only_an_epoch_that_is_measured_can_be_the_best(scores: list[float], best: int, tmp_path: Path):
    training = prepare(recipe(teacher=None, run__epochs=5, run__validate_every=2), out=tmp_path / "run")
    with_scores(training, scores)
    result = training.fit()
    assert result.summary["best"] == {"epoch": best, "val/accuracy": scores[best - 1]}
    assert [f.name for f in (tmp_path / "run" / "checkpoints").glob("best_*")] == [f"best_{3 * best}.pt"]


@plugin
class Late(Plugin):
    """Has the student to be measured from step 9 on."""

    @hookimpl
    def build(self, assembly):
        assembly.exclude_from_best_until(9)


def test_what_was_measured_before_the_student_is_ready_is_not_the_best_after_it(tmp_path: Path):
    """The third epoch is the first that may be the best, and is not measured: the second one's score is not its own."""
    made = recipe(teacher=None, run__epochs=5, run__validate_every=2)
    training = prepare(made, plugins=[Late()], out=tmp_path / "run")
    with_scores(training, [0.5, 0.9, 0.8, 0.3, 0.1])
    assert training.fit().summary["best"] == {"epoch": 4, "val/accuracy": 0.3}
    assert [f.name for f in (tmp_path / "run" / "checkpoints").glob("best_*")] == ["best_12.pt"]


@pytest.mark.parametrize("at", [4, 7, 11])
def test_a_resumed_run_measures_the_same_epochs(at: int, tmp_path: Path):
    made = recipe(*FIVE.values(), run__epochs=5, run__validate_every=2)
    whole = train(made, write=False)
    interrupted(prepare(made, out=tmp_path / "run"), at)
    resumed = train(made, out=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics


def test_early_stopping_counts_measurements():
    made = recipe(teacher=None, run__epochs=9, run__validate_every=2, early_stopping={"patience": 2})
    training = prepare(made, write=False)
    with_scores(training, [0.1, 0.5, 0.9, 0.4, 0.9, 0.3, 0.9, 0.9, 0.9])
    assert training.fit().summary["stopped"] == {
        "epoch": 6,
        "step": 18,
        "reason": "val/accuracy has not improved for 2 measurements",
    }


def test_a_run_that_something_else_ends_is_measured_as_it_ended():
    def ended(every: int) -> Any:
        training = prepare(recipe(teacher=None, run__epochs=9, run__validate_every=every), write=False)
        trainer = training.run.trainer
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=6), lambda: trainer.terminate())
        return training.fit()

    usual, result = ended(1), ended(4)
    assert [bool(e) for e in result.history] == [False, False, False, True, False, False]
    assert result.metrics == usual.metrics
    assert result.metrics["val"] != result.history[3]


def test_a_recipe_that_measures_every_epoch_is_the_recipe_that_it_was():
    plain, every, second = recipe(), recipe(run__validate_every=1), recipe(run__validate_every=2)
    assert plain.digest() == every.digest() != second.digest()


def test_zero_epochs_are_no_rhythm():
    with pytest.raises(StillhouseError, match=r"run\.validate_every: must be > 0, got 0"):
        recipe(run__validate_every=0)
