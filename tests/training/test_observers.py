"""Observers: everything that TensorBoard hears reaches any plugin, at the time and in the order that the pages say."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Accuracy
from support import FIVE, Killed, interrupted, recipe, same_state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import Plugin, evaluate, hookimpl, plugin, prepare, train
from stillhouse.models.weights import find_last_checkpoint, read_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
EVERYTHING = {
    "schedule": {"decay": "linear"},
    "ema": {"decay": 0.5},
    "optimizer": {"lr": 1e-2, "clip_norm": 1.0},
    "run__epochs": 3,
    "checkpoints": {"every_steps": 5},
}


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the logger has written, by tag."""
    found = defaultdict(list)
    with (folder / "scalars.csv").open() as file:
        for step, tag, value in csv.reader(file):
            found[tag].append((int(step), float(value)))
    return found


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, by tag."""
    seen = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    seen.Reload()
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


@pytest.fixture
def csv_logger(fake_distribution: Any) -> dict[str, Any]:
    """The logger of the page, installed; how a recipe uses it."""
    (source,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "CsvLogger" in text)
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 30
    fake_distribution("stillhouse-csv", {"csv": "stillhouse_csv:CsvLogger"}, source)
    return {"use": "csv"}


def test_a_logger_of_thirty_lines_gets_every_scalar_that_tensorboard_gets(csv_logger: dict[str, Any], tmp_path: Path):
    # Looks come when there is time for them, and theirs are times: see the tests of the watcher.
    made = recipe(*FIVE.values(), csv_logger, **EVERYTHING, watch={"enabled": False})
    train(made, out=tmp_path / "run")
    mine, theirs = written(tmp_path / "run"), shown(tmp_path / "run")
    assert mine.keys() == theirs.keys()
    kinds = {tag.split("/")[0] for tag in mine}
    assert kinds == {
        *("loss", "loss_raw", "loss_weighted", "plugin", "gradient", "learning_rate", "speed"),
        *("val", "val_ema", "test", "test_ema"),
    }
    for tag, points in mine.items():
        assert [step for step, _ in points] == [step for step, _ in theirs[tag]]
        assert [v for _, v in points] == pytest.approx([v for _, v in theirs[tag]], rel=1e-6)
    # A run that was killed and goes on: each point once, the same numbers.
    interrupted(prepare(made, out=tmp_path / "cut"), at=8)
    train(made, out=tmp_path / "cut", resume=True)
    again = written(tmp_path / "cut")
    for points in (mine, again):
        del points["speed/images_per_second"]
    assert again == mine


@plugin
class Watching(Plugin):
    """Notes what it is told, and in which state the student is then."""

    seen: Any = None
    draws: bool = False

    @hookimpl
    def metrics(self, assembly):
        return {"mine": Accuracy(lambda s: (s["output"], s["target"]))}

    @hookimpl
    def epoch_completed(self, run):
        self.seen.append(("epoch_completed", run.trainer.state.epoch, sorted(run.metrics)))

    @hookimpl
    def evaluated(self, run, split, metrics):
        assert run.metrics[split] == metrics
        assert {type(value) for value in metrics.values()} == {float}
        assert not run.student.training
        assert not torch.is_grad_enabled()
        if self.draws:
            torch.rand(3)
        self.seen.append((split, run.trainer.state.epoch, run.student.head.bias.clone()))

    @hookimpl
    def completed(self, run):
        self.seen.append(("completed", run.trainer.state.epoch, sorted(run.metrics)))


def test_evaluated_is_told_of_each_split_with_the_weights_that_were_measured():
    seen: list[Any] = []
    training = prepare(recipe(ema={"decay": 0.5}), plugins=[Watching(seen=seen)], write=False)
    bias = training.run.student.head.bias
    training.fit()
    assert [(what, epoch) for what, epoch, _ in seen] == [
        *(("epoch_completed", 1), ("val", 1), ("val_ema", 1)),
        *(("epoch_completed", 2), ("val", 2), ("val_ema", 2), ("test", 2), ("test_ema", 2)),
        ("completed", 2),
    ]
    weights = {what: value for what, _, value in seen}
    average = training.observers.ema.weights["head.bias"]
    assert torch.equal(weights["val"], bias)
    assert torch.equal(weights["test"], bias)
    assert torch.equal(weights["val_ema"], average)
    assert torch.equal(weights["test_ema"], average)
    assert not torch.equal(bias, average)
    assert seen[-1][2] == ["test", "test_ema", "val", "val_ema"]


def test_what_a_logger_draws_leaves_the_training_as_it_was():
    quiet, drawing = (
        train(recipe(), plugins=[Watching(seen=[], draws=draws)], write=False).student for draws in (False, True)
    )
    assert same_state(quiet.state_dict(), drawing.state_dict())


def test_the_command_evaluate_tells_nobody(tmp_path: Path):
    seen: list[Any] = []
    result = train(recipe(), plugins=[Watching(seen=seen)], out=tmp_path / "run")
    seen.clear()
    found = evaluate(tmp_path / "run", weights="last", plugins=[Watching(seen=seen)])
    assert found.metrics["test"]["mine"] == result.metrics["test"]["mine"]
    assert seen == []


def test_a_run_that_has_only_to_be_measured_at_the_end_tells_of_what_was_not_told(tmp_path: Path):
    train(recipe(), plugins=[Watching(seen=[])], out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    seen: list[Any] = []
    train(recipe(), plugins=[Watching(seen=seen)], out=tmp_path / "run", resume=True)
    assert [(what, epoch) for what, epoch, _ in seen] == [("test", 2), ("completed", 2)]


def test_a_run_that_is_interrupted_is_measured_all_the_same():
    training = prepare(recipe(), write=False)
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), training.run.trainer.interrupt)
    result = training.fit()
    assert result.summary["steps_done"] == 2
    assert set(result.metrics) == {"val", "test"}
    training.run.trainer._internal_run_generator.close()  # ignite keeps it to go on with it


@pytest.mark.parametrize(
    ("hook", "note"),
    [
        ("logged", "in plugin 'culprit', hook 'logged', epoch 1, step 2"),
        ("evaluated", "in plugin 'culprit', hook 'evaluated', split 'val', epoch 1"),
    ],
)
def test_an_error_names_plugin_hook_and_place(hook: str, note: str):
    told: list[str] = []

    @plugin
    class Culprit(Plugin):
        """Fails."""

        hook: str = ""

        @hookimpl
        def logged(self):
            if self.hook == "logged":
                raise ZeroDivisionError("on purpose")

        @hookimpl
        def evaluated(self):
            if self.hook == "evaluated":
                raise ZeroDivisionError("on purpose")

        @hookimpl
        def exception_raised(self, error):
            told.append(str(error))

    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(), plugins=[Culprit(hook=hook)], write=False)
    assert caught.value.__notes__ == [note]
    assert told == ["on purpose"]


# The engine's own -----------------------------------------------------------------------------------------------------


def test_only_those_are_there_that_the_recipe_asks_for(tmp_path: Path):
    def names(*plugins: Any, out: Path | None = None, **changes: Any) -> list[str]:
        training = prepare(recipe(*plugins, **changes), out=out, write=out is not None)
        training.close()
        return [observer.name for observer in training.observers]

    assert names(watch={"enabled": False}) == ["scalars", "evaluation", "one class"]
    assert names() == ["scalars", "evaluation", "one class", "teacher metrics", "watcher"]
    all_of_them = {"ema": {}, "early_stopping": {}, "schedule": {"decay": "linear"}}
    assert names(out=tmp_path / "run", run__figures=True, run__keep_predictions=True, **all_of_them) == [
        *(
            "ema",
            "scalars",
            "learning rate",
            "interruption",
            "evaluation",
            "one class",
            "early stopping",
            "task",
            "answers",
            "predictions",
            "teacher metrics",
            "watcher",
            "tensorboard",
            "loggers",
            "checkpoints",
        )
    ]
    assert "task" not in names(out=tmp_path / "run", run__figures=False)


def test_a_plugin_may_have_an_observers_name(tmp_path: Path):
    result = train(recipe(), plugins=[Watching(seen=[], name="checkpoints")], out=tmp_path / "run")
    assert result.summary["plugins"] == ["checkpoints"]


def test_what_a_handler_changes_at_the_end_of_an_epoch_is_in_its_checkpoint(tmp_path: Path):
    training = prepare(recipe(run__epochs=1), out=tmp_path / "run")

    def change() -> None:
        assert training.run.metrics["val"]
        with torch.no_grad():
            training.run.student.head.bias.fill_(7.0)

    training.run.trainer.add_event_handler(Events.EPOCH_COMPLETED, change)
    training.fit()
    saved = read_checkpoint(find_last_checkpoint(tmp_path / "run" / "checkpoints"), "")
    assert saved["model"]["student.head.bias"].tolist() == [7.0] * 3


def test_the_scale_of_a_float16_run_is_in_its_checkpoint(tmp_path: Path):
    made = recipe(run__precision="float16", run__epochs=3)
    training = prepare(made, out=tmp_path / "run")
    training.run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda: training.observers.checkpoints._parts["scaler"].update(2.0**9)
    )
    interrupted(training, at=5)
    again = prepare(made, out=tmp_path / "run", resume=True)
    scaler = again.observers.checkpoints._parts["scaler"]
    assert scaler.get_scale() != 2.0**9
    again.fit()
    assert scaler.get_scale() == 2.0**9
    assert "scaler" not in prepare(recipe(), out=tmp_path / "other").observers.checkpoints._parts


def test_what_was_logged_before_a_run_was_killed_is_in_its_events(tmp_path: Path):
    training = prepare(recipe(run__log_every=1), out=tmp_path / "run")

    def stop() -> None:
        raise Killed

    training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=3), stop)
    with pytest.raises(Killed):
        training.fit()
    assert [step for step, _ in shown(tmp_path / "run")["loss/total"]] == [1, 2]
