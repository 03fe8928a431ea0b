"""A run that goes on where another has ended: what it takes over, what it changes, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from ignite.engine import Events
from support import FIVE, recipe, same_state, tables, with_scores

from stillhouse import StillhouseError, prepare, train
from stillhouse.cli import main


def longer(parent: Path, epochs: int = 4, **changes: Any) -> Any:
    return recipe(*FIVE.values(), run__epochs=epochs, run__parent=str(parent), **changes)


def test_more_epochs_of_a_constant_rate_are_the_longer_run(tmp_path: Path):
    train(recipe(*FIVE.values()), out=tmp_path / "short")
    before = {f.name: f.read_bytes() for f in (tmp_path / "short").rglob("*") if f.is_file()}
    child = train(longer(tmp_path / "short"), out=tmp_path / "child")
    whole = train(recipe(*FIVE.values(), run__epochs=4), out=tmp_path / "whole")
    assert same_state(child.student.state_dict(), whole.student.state_dict())
    assert child.history == whole.history
    assert (child.summary["parent"], child.summary["resumed_at_step"]) == (str(tmp_path / "short"), 6)
    assert {f.name: f.read_bytes() for f in (tmp_path / "short").rglob("*") if f.is_file()} == before


def test_it_is_a_run_that_resumes(tmp_path: Path):
    train(recipe(*FIVE.values()), out=tmp_path / "short")
    whole = train(longer(tmp_path / "short", 5), out=tmp_path / "whole")
    training = prepare(longer(tmp_path / "short", 5), out=tmp_path / "cut")
    training.run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=4), training.run.trainer.terminate)
    training.fit()
    (tmp_path / "cut" / "summary.json").unlink()
    again = train(longer(tmp_path / "short", 5), out=tmp_path / "cut", resume=True)
    assert again.summary["resumed_at_step"] == 12
    assert same_state(again.student.state_dict(), whole.student.state_dict())
    assert again.history == whole.history


def test_rate_and_schedule_are_the_new_recipes(tmp_path: Path):
    train(recipe(*FIVE.values(), schedule={"decay": "linear"}), out=tmp_path / "short")
    made = longer(tmp_path / "short", optimizer={"lr": 0.5}, schedule={"decay": "linear"})
    training = prepare(made, write=False)
    rates: list[float] = []
    training.run.trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: rates.append(training.optimizer.param_groups[0]["lr"])
    )
    training.fit()
    assert rates == pytest.approx([0.5 * (1 - step / 12) for step in range(6, 12)])


def test_early_stopping_waits_anew(tmp_path: Path):
    first = prepare(recipe(teacher=None, run__epochs=6, early_stopping={"patience": 2}), out=tmp_path / "short")
    with_scores(first, [0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    assert first.fit().summary["stopped"]["epoch"] == 3
    made = recipe(teacher=None, run__epochs=9, run__parent=str(tmp_path / "short"), early_stopping={"patience": 3})
    second = prepare(made, write=False)
    with_scores(second, [0.4] * 9)
    assert second.fit().summary["stopped"]["epoch"] == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__batch_size": 4}, r"data.batch_size was 8 and is 4"),
        ({"run__seed": 4}, r"run.seed was 3 and is 4"),
        ({"optimizer": {"name": "sgd", "lr": 0.1}}, r"optimizer.name was 'adamw' and is 'sgd'"),
        ({"run__epochs": 2}, r"run.epochs: must be more than the 2 epochs that the parent has done, got 2"),
    ],
)
def test_what_is_no_continuation_is_refused(changes: dict[str, Any], says: str, tmp_path: Path):
    train(recipe(teacher=None), out=tmp_path / "short")
    made = recipe(teacher=None, **{"run__epochs": 4, "run__parent": str(tmp_path / "short"), **changes})
    with pytest.raises(StillhouseError, match=says):
        train(made, out=tmp_path / "child")
    with pytest.raises(StillhouseError, match="is no run's folder"):
        prepare(recipe(teacher=None, run__parent=str(tmp_path)), write=False)


def test_the_command_names_the_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.toml").write_text(tomli_w.dumps(tables(teacher=None)))
    out = str(tmp_path / "short")
    assert main(["train", str(tmp_path / "r.toml"), "--out", out, "--quiet"]) == 0
    words = ["--extend", out, "--epochs", "3", "--out", str(tmp_path / "child"), "--quiet"]
    assert main(["train", str(tmp_path / "r.toml"), *words]) == 0
    assert "short" in (tmp_path / "child" / "recipe.toml").read_text()


def test_a_student_starts_with_anothers_optimizer_state_or_without(tmp_path: Path):
    first = train(recipe(teacher=None), out=tmp_path / "first")
    del first
    last = torch.load(next((tmp_path / "first" / "checkpoints").glob("last_*.pt")), weights_only=True)

    def start(**more: Any) -> dict[str, Any]:
        student = {"model": "support:TinyNet", "args": {"width": 4}, "checkpoint": str(tmp_path / "first"), **more}
        training = prepare(recipe(teacher=None, student=student), write=False)
        found: dict[str, Any] = {}
        training.run.trainer.add_event_handler(
            Events.STARTED, lambda: found.update(copy.deepcopy(training.optimizer.state_dict()["state"]))
        )
        training.fit()
        return found

    assert not start()
    moments = start(optimizer_state=True)
    assert all(torch.equal(moments[i]["exp_avg"], state["exp_avg"]) for i, state in last["optimizer"]["state"].items())
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(StillhouseError, match=r"student\.optimizer_state: needs `checkpoint`"):
        recipe(student={"model": "support:TinyNet", "optimizer_state": True})


def test_its_best_weights_go_along_until_better_ones_come(tmp_path: Path):
    scores = [0.1, 0.9, 0.2, 0.3, 0.95, 0.4]

    def run(out: str, epochs: int, **changes: Any) -> Any:
        training = prepare(recipe(teacher=None, run__epochs=epochs, **changes), out=tmp_path / out)
        with_scores(training, scores)
        return training.fit()

    def files(out: str) -> list[str]:
        return sorted(path.name for path in (tmp_path / out / "checkpoints").iterdir())

    run("short", 3)
    result = run("child", 4, run__parent=str(tmp_path / "short"))
    assert result.summary["best"] == {"epoch": 2, "val/accuracy": 0.9}
    assert files("child") == ["best_6.pt", "last_12.pt"]
    best = [torch.load(tmp_path / out / "checkpoints" / "best_6.pt")["model"] for out in ("short", "child")]
    assert same_state(*best)
    run("better", 6, run__parent=str(tmp_path / "short"))
    assert files("better") == ["best_15.pt", "last_18.pt"]
    run("none kept", 3, checkpoints={"best": False})
    run("kept since", 4, run__parent=str(tmp_path / "none kept"))
    assert files("kept since") == ["best_12.pt", "last_12.pt"]  # of those whose weights there are


def test_a_scale_that_has_come_down_stays_down(tmp_path: Path):
    made = {"run__precision": "float16", "optimizer": {"name": "sgd", "lr": 1e-5}}
    plugins = [{"use": "logits", "weight": 1e3}]
    whole = train(recipe(*plugins, run__epochs=6, **made), out=tmp_path / "whole")
    first = prepare(recipe(*plugins, run__epochs=3, **made), out=tmp_path / "short")
    first.fit()
    assert first._stepper.scaler.get_scale() < 2**16
    child = train(recipe(*plugins, run__epochs=6, run__parent=str(tmp_path / "short"), **made), out=tmp_path / "child")
    assert same_state(child.student.state_dict(), whole.student.state_dict())


def test_what_an_optimizer_keeps_in_its_groups_goes_on(tmp_path: Path):
    made = {"optimizer": {"name": "support.schedule_free:ScheduleFreeSGD", "lr": 0.1}}
    train(recipe(teacher=None, run__epochs=2, **made), out=tmp_path / "short")
    whole = prepare(recipe(teacher=None, run__epochs=4, **made), write=False)
    child = prepare(recipe(teacher=None, run__epochs=4, run__parent=str(tmp_path / "short"), **made), write=False)
    for training in (whole, child):
        training.fit()
    assert child.optimizer.param_groups[0]["k"] == whole.optimizer.param_groups[0]["k"] == 12
    assert same_state(child.run.student.state_dict(), whole.run.student.state_dict())


def test_the_best_by_another_score_is_another_epoch(tmp_path: Path):
    first = prepare(recipe(teacher=None, run__epochs=3), out=tmp_path / "short")
    with_scores(first, [0.9, 0.2, 0.3])
    first.fit()
    losses = [epoch["loss"] for epoch in first.observers.evaluation.history]
    assert losses[0] > min(losses)
    changes = {"checkpoints": {"score": "val/loss"}, "optimizer": {"lr": 1e-9}, "run__parent": str(tmp_path / "short")}
    train(recipe(teacher=None, run__epochs=4, **changes), out=tmp_path / "child")
    assert "best_3.pt" not in [path.name for path in (tmp_path / "child" / "checkpoints").iterdir()]
