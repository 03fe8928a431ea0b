"""A compiled step beside what torch does not look at: switches of modules, terms that depend on the batch, many runs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from support import FIVE, recipe, same_state
from support.speed import SGD, state
from torch import nn

from stillhouse import Plugin, StillhouseError, StillhouseWarning, Weight, hookimpl, plugin, prepare, train
from stillhouse.loop.phases import Phase

SPEED = {"compile": "step", "compile_args": {"backend": "eager"}}
CHANGES = {"student": {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}, "optimizer": SGD}


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


@plugin
class Warm(Plugin):
    """Has a term from the second epoch on, by a flag of its module."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly: Any) -> nn.Module:
        module = nn.Module()
        module.active = False  # type: ignore[assignment]  # a flag
        return module

    @hookimpl
    def epoch_started(self, run: Any) -> None:
        run.module(self).active = run.trainer.state.epoch > 1

    @hookimpl
    def losses(self, step: Any) -> Any:
        return {"": step.student.output.square().mean()} if step.module(self).active else {}


@plugin
class OnlyFull(Plugin):
    """Has a term in whole batches."""

    weight: Weight = 1.0

    @hookimpl
    def losses(self, step: Any) -> Any:
        return {"": step.student.output.square().mean()} if len(step.inputs) == 8 else {}


@plugin
class Throws(Plugin):
    """Throws dice of Python's, or of numpy's."""

    weight: Weight = 1.0
    numpy: bool = False

    @hookimpl
    def losses(self, step: Any) -> Any:
        factor = np.random.rand() if self.numpy else random.random()
        return {"": step.student.output.square().mean() * factor}


def losses_of(training: Any) -> list[dict[str, float]]:
    """Each step's terms and total, and the shape of the student's output."""
    found: list[dict[str, float]] = []

    def note() -> None:
        step = training.run.trainer.state.step
        terms = {name: float(value) for name, value in step.losses.items()}
        found.append({**terms, "total": float(step.total), "rows": float(len(step.student.output))})

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, note)
    training.fit()
    return found


@pytest.mark.filterwarnings("ignore:plugin 'warm'")  # the first epoch has no term of it
def test_a_flag_of_a_module_that_changes_has_the_step_compiled_anew():
    eager = prepare(recipe(run__epochs=3, **CHANGES), plugins=[Warm()], write=False)
    compiled = prepare(recipe(run__epochs=3, **CHANGES, speed=SPEED), plugins=[Warm()], write=False)
    wanted = losses_of(eager)
    with pytest.warns(StillhouseWarning, match=r"warm\.active changed since the step was compiled") as told:
        found = losses_of(compiled)
    assert sum("compiled anew" in str(warning.message) for warning in told) == 1
    assert ["warm" in step for step in found] == ["warm" in step for step in wanted] == [False] * 3 + [True] * 6
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_mode_that_changes_has_the_step_compiled_anew():
    found = []
    for speed in ({}, {"speed": SPEED}):
        training = prepare(recipe(FIVE["logits"], run__epochs=4, **CHANGES, **speed), write=False)
        trainer = training.run.trainer
        trainer.add_event_handler(Events.EPOCH_STARTED(once=2), training.run.student.norm.eval)
        if speed:
            with pytest.warns(StillhouseWarning, match=r"norm\.training changed"):
                training.fit()
        else:
            training.fit()
        found.append(training.run.student.state_dict())
    assert found[0]["norm.num_batches_tracked"] == found[1]["norm.num_batches_tracked"] == 3
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_terms_keep_their_names_where_each_size_of_a_batch_has_its_own():
    changes = {**CHANGES, "run__epochs": 3, "data__args": {"train": 21}, "data__drop_last": False}
    found = []
    for speed in ({}, {"speed": SPEED}):
        training = prepare(recipe(**changes, **speed), plugins=[OnlyFull()], write=False)
        found.append(losses_of(training))
    assert [len(step) for step in found[0]] == [4, 4, 3] * 3
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("numpy", [False, True])
def test_a_number_that_would_be_drawn_once_is_refused(numpy: bool):
    with pytest.raises(StillhouseError, match="draws from Python's or numpy's generator"):
        train(recipe(**CHANGES, speed=SPEED), plugins=[Throws(numpy=numpy)], write=False)


def test_a_process_compiles_as_many_runs_as_it_is_asked_to():
    changes = {**CHANGES, "run__epochs": 1, "data__args": {"train": 13}, "data__drop_last": False}  # two sizes a run
    results = [train(recipe(FIVE["logits"], **changes, speed=SPEED), write=False) for _ in range(6)]
    assert all(same_state(state(results[0]), state(result)) for result in results[1:])


def test_more_sizes_than_are_compiled_for_are_said():
    changes = {**CHANGES, "data__args": {"train": 13}, "data__drop_last": False}
    config: Any = torch._dynamo.config
    few = config.patch(**{"recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit": 1})
    with (
        few,
        pytest.raises(
            StillhouseError, match=r"batches have more sizes than are compiled for, 1|a batch of another size"
        ),
    ):
        train(recipe(FIVE["logits"], **changes, speed=SPEED), write=False)
