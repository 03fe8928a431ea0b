"""Early stopping: when it ends a run, what the run then says, and that a resumed run knows it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ignite.engine import Events
from support import FIVE, TESTS, recipe, same_state, with_scores

from stillhouse import Plugin, Run, StillhouseError, hookimpl, plugin, prepare, train
from stillhouse.cli import main
from stillhouse.training.evaluation import Evaluation


def stopped_after(scores: list[float], **spec: Any) -> int:
    training = prepare(recipe(teacher=None, run__epochs=len(scores), early_stopping=spec), write=False)
    with_scores(training, scores)
    return training.fit().summary["steps_done"] // 3


@pytest.mark.filterwarnings("ignore:tiny. val/accuracy not finite")
@pytest.mark.parametrize(
    ("scores", "spec", "epochs"),
    [
        ([0.1, 0.2, 0.2, 0.2, 0.3], {"patience": 2}, 4),
        ([0.1, 0.2, 0.2, 0.3, 0.3], {"patience": 2}, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.4], {"patience": 1}, 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5], {"patience": 1, "min_delta": 0.15}, 2),
        # 0.2 and 0.3 are each too little, and together enough: against the last improvement, 0.1.
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3], {"patience": 2, "min_delta": 0.15, "cumulative": True}, 5),
        ([0.1, 0.2, 0.3, 0.4], {"patience": 3}, 4),
        # NaN is no score: neither an improvement nor something to be beaten.
        ([0.1, float("nan"), float("nan"), 0.3], {"patience": 2}, 3),
        ([float("nan"), 0.1, 0.2, 0.2, 0.3], {"patience": 2}, 5),
    ],
)
def test_it_ends_the_run_when_the_score_no_longer_improves(scores: list[float], spec: dict[str, Any], epochs: int):
    assert stopped_after(scores, **spec) == epochs


def test_a_task_whose_score_is_to_fall(monkeypatch):
    from stillhouse.tasks import Classification

    monkeypatch.setattr(Classification, "score_mode", "min")
    assert stopped_after([0.5, 0.4, 0.4, 0.3], patience=1) == 3


def test_scores_from_before_the_student_is_what_the_method_makes_of_it_do_not_count():
    """They are another model's, and what comes after may well be worse."""

    @plugin
    class Settling(Plugin):
        """The student is the method's from the ninth step on."""

        @hookimpl
        def build(self, assembly):
            assembly.exclude_from_best_until(9)

    tables = recipe(teacher=None, run__epochs=6, early_stopping={"patience": 2})
    training = prepare(tables, plugins=[Settling()], write=False)
    with_scores(training, [0.9, 0.9, 0.2, 0.3, 0.3, 0.3])
    assert training.fit().summary["stopped"]["epoch"] == 6


@pytest.fixture
def plateau(monkeypatch):
    """The score rises in the first two epochs only."""
    measure = Evaluation.measure

    def measured(self: Evaluation, run: Run, split: str) -> None:
        measure(self, run, split)
        if split == "val":
            found = {**run.metrics["val"], "accuracy": float(min(run.trainer.state.epoch, 2))}
            dict.__setitem__(run.metrics, "val", found)

    monkeypatch.setattr(Evaluation, "measure", measured)


def test_the_summary_says_that_and_when(tmp_path, plateau, capsys):
    made = recipe(*FIVE.values(), run__epochs=9, early_stopping={"patience": 2}, checkpoints={"keep_every": 1})
    result = train(made, out=tmp_path / "run", progress=True)
    stopped = {"epoch": 4, "step": 12, "reason": "val/accuracy has not improved for 2 epochs"}
    assert result.summary["stopped"] == stopped
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stopped"] == stopped
    assert (result.summary["steps"], result.summary["steps_done"], len(result.history)) == (27, 12, 4)
    assert (tmp_path / "run" / "checkpoints" / "last_12.pt").exists(), "written after the epoch that ended the run"
    assert set(result.metrics) == {"val", "test"}
    assert "ended after epoch 4: val/accuracy has not improved for 2 epochs" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_command_says_that_and_when_and_nothing_else(
    tmp_path,
    plateau,
    capsys,
    monkeypatch,
):
    monkeypatch.chdir(TESTS)
    made = recipe(teacher=None, run__epochs=9, early_stopping={"patience": 2})
    (tmp_path / "made.toml").write_text(made.to_toml())
    assert main(["train", str(tmp_path / "made.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    told = capsys.readouterr()
    assert "stopped early, after epoch 4 of 9: val/accuracy has not improved for 2 epochs\n" in told.out


def test_a_run_that_is_not_ended_says_so():
    result = train(recipe(teacher=None, early_stopping={"patience": 5}), write=False)
    assert result.summary["stopped"] is None
    assert result.summary["steps_done"] == result.summary["steps"]
    assert train(recipe(teacher=None), write=False).summary["stopped"] is None


def test_up_to_its_end_it_is_the_run_without(tmp_path, plateau):
    """Schedules are fractions of the whole run, ended or not."""
    settings: dict[str, Any] = {"run__epochs": 9, "schedule": {"warmup": 0.2, "decay": "cosine"}}
    ended = train(recipe(*FIVE.values(), **settings, early_stopping={"patience": 2}), write=False)
    training = prepare(recipe(*FIVE.values(), **settings), write=False)
    training.run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: training.run.trainer.terminate() if training.run.trainer.state.epoch == 4 else None,
    )
    assert same_state(ended.student.state_dict(), training.fit().student.state_dict())


def test_resuming_a_run_that_was_ended_gives_its_result_again(tmp_path, plateau):
    made = recipe(teacher=None, run__epochs=9, early_stopping={"patience": 2})
    first = train(made, out=tmp_path / "run")
    again = prepare(made, out=tmp_path / "run", resume=True)
    again.run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("nothing is left to train"))
    assert again.fit().summary == first.summary
    # Killed between the last checkpoint and the summary: it is measured again, and not trained.
    (tmp_path / "run" / "summary.json").unlink()
    again = prepare(made, out=tmp_path / "run", resume=True)
    again.run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("nothing is left to train"))
    result = again.fit()
    assert result.metrics == first.metrics
    assert result.summary["stopped"] == first.summary["stopped"]
    assert same_state(result.student.state_dict(), first.student.state_dict())


def test_a_resumed_run_counts_on(tmp_path, plateau):
    made = recipe(*FIVE.values(), run__epochs=9, early_stopping={"patience": 3}, checkpoints={"every_steps": 2})
    whole = train(made, write=False)
    training = prepare(made, out=tmp_path / "run")

    def stop() -> None:
        if training.run.trainer.state.iteration == 11:  # in the fourth epoch, when one is counted
            raise KeyboardInterrupt

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    result = train(made, out=tmp_path / "run", resume=True)
    assert result.summary["resumed_at_step"] == 10
    assert result.summary["stopped"] == whole.summary["stopped"]
    assert result.summary["stopped"]["epoch"] == 5
    assert same_state(result.student.state_dict(), whole.student.state_dict())


def test_what_cannot_be_stopped_by_is_refused(monkeypatch):
    with pytest.raises(StillhouseError) as caught:
        recipe(early_stopping={"patience": 0, "min_delta": -1.0})
    assert {f.where for f in caught.value.faults} == {"early_stopping.patience", "early_stopping.min_delta"}
    import support

    monkeypatch.setattr(support, "alone", lambda: {"train": support.tiny_data()["train"]}, raising=False)
    made = recipe(teacher=None, data__name="support:alone", data__val_fraction=0.0, early_stopping={})
    with pytest.raises(StillhouseError, match="validation split, and the data has none"):
        prepare(made, write=False)
