"""Runs with augmented batches: with all plugins, resumed, in parts, and not with a teacher's cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, recipe, same_state
from torch import Tensor

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare, train

MIX = [{"use": "MixUp", "alpha": 0.2}, {"use": "RandomHorizontalFlip"}]


def test_a_run_trains_on_them_with_all_plugins():
    training = prepare(recipe(*FIVE.values(), data__batch_transforms=MIX), write=False)
    seen: list[tuple[Any, ...]] = []
    training.run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: seen.append((training.run.trainer.state.step.targets.shape, training.run.trainer.state.step.ids.shape)),
    )
    result = training.fit()
    assert seen == [((8, 3), (8,))] * 6
    assert 0 <= result.metrics["val"]["accuracy"] <= 1
    plain = train(recipe(*FIVE.values()), write=False)
    assert not same_state(plain.student.state_dict(), result.student.state_dict())


def test_a_resumed_run_sees_the_same_batches(tmp_path):
    made = recipe(*FIVE.values(), data__batch_transforms=[*MIX, {"use": "CutMix"}], checkpoints={"every_steps": 2})
    whole = train(made, write=False)
    training = prepare(made, out=tmp_path / "run")

    def stop() -> None:
        if training.run.trainer.state.iteration == 5:
            raise KeyboardInterrupt

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    again = train(made, out=tmp_path / "run", resume=True)
    assert again.summary["resumed_at_step"] == 4
    assert same_state(again.student.state_dict(), whole.student.state_dict())


def inputs_of(accumulate: int) -> list[Tensor]:
    seen: list[Tensor] = []
    training = prepare(recipe(data__batch_transforms=MIX, run__accumulate=accumulate, teacher=None), write=False)
    trainer = training.run.trainer
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: seen.append(trainer.state.batch.input.clone()))
    training.fit()
    return seen


def test_the_batches_are_the_same_whatever_the_parts_they_go_through_in():
    assert all(torch.equal(a, b) for a, b in zip(inputs_of(1), inputs_of(2), strict=True))


@plugin
class Remembering(Plugin):
    """Keeps the teacher's answers by id."""

    provides = ("teacher cache",)

    @hookimpl
    def started(self, run):
        pass


def test_a_teacher_cache_is_refused_with_them():
    with pytest.raises(StillhouseError, match="'remembering' remembers the teacher's answers by sample"):
        prepare(recipe(data__batch_transforms=MIX), plugins=[Remembering()], write=False)
    prepare(recipe(), plugins=[Remembering()], write=False)
