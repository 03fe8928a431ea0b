"""A loss, metrics and callbacks from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy
from support import recipe, same_state

from stillhouse import StillhouseError, prepare, train


def halved(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, targets) / 2


class Counter:
    def __init__(self) -> None:
        self.epochs = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._count)

    def _count(self) -> None:
        self.epochs += 1


def test_a_loss_from_python_takes_the_place_of_the_tasks(tmp_path: Path):
    made = recipe(teacher=None, optimizer={"name": "sgd", "lr": 0.1})
    double = train(recipe(teacher=None, optimizer={"name": "sgd", "lr": 0.05}), write=False)
    result = train(made, loss=halved, out=tmp_path / "run")
    for own, other in zip(result.student.parameters(), double.student.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert result.metrics["val"]["accuracy"] >= 0
    with pytest.raises(StillhouseError, match=r"task\.loss: this run was given its loss, halved, from Python"):
        train(made.from_dict({**made.to_dict(), "task": {"loss": "halved"}}), write=False)
    again = train(made, loss=halved, out=tmp_path / "run", resume=True)
    assert same_state(again.student.state_dict(), result.student.state_dict())


def test_a_recipe_names_a_loss_by_its_path():
    made = recipe(teacher=None, task={"loss": f"{__name__}:halved"})
    assert same_state(
        train(made, write=False).student.state_dict(),
        train(recipe(teacher=None), loss=halved, write=False).student.state_dict(),
    )


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("text", "loss: must be callable"),
        (torch.nn.Module, r"loss: must be a function or a module, got the class Module \(Module\(\)\)"),
        (torch.nn.Linear(2, 2), "loss: has parameters, which would not be trained"),
    ],
)
def test_what_is_no_loss_is_refused(loss: Any, says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(teacher=None), loss=loss, write=False)


def test_metrics_from_python_are_measured_and_may_be_the_score():
    metric = Accuracy(lambda state: (state["output"], state["target"]))
    made = recipe(teacher=None, checkpoints={"score": "val/own"})
    result = train(made, metrics={"own": metric}, write=False)
    assert [epoch["own"] for epoch in result.history] == [epoch["accuracy"] for epoch in result.history]
    with pytest.raises(StillhouseError, match="the task has a metric of this name"):
        prepare(recipe(teacher=None), metrics={"accuracy": metric}, write=False)
    with pytest.raises(StillhouseError, match=r"must be a Metric of ignite, got int"):
        prepare(recipe(teacher=None), metrics={"x": 3}, write=False)  # type: ignore[dict-item]


def test_callbacks_are_ignites_handlers_or_pairs():
    counter, seen = Counter(), []
    train(
        recipe(teacher=None),
        callbacks=[counter, (Events.ITERATION_COMPLETED(every=2), lambda engine: seen.append(engine.state.iteration))],
        write=False,
    )
    assert (counter.epochs, seen) == (2, [2, 4, 6])
    with pytest.raises(StillhouseError, match=r"callbacks\[0\]: must have attach"):
        prepare(recipe(teacher=None), callbacks=[print], write=False)  # type: ignore[list-item]
    for callback, says in (
        (("epoch_done", lambda: None), r"callbacks\[0\]: .*epoch_done is not a valid event"),
        ((Events.STARTED, lambda a, b, c: None), r"callbacks\[0\]: Error adding .*takes parameters"),
    ):
        with pytest.raises(StillhouseError, match=says):
            prepare(recipe(teacher=None), callbacks=[callback], write=False)
