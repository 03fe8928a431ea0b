"""Warm-up of learning rate and weights in steps, epochs or a fraction of the run."""

from __future__ import annotations

import pytest
from support import FIVE, recipe
from support.speed import faults

from stillhouse import StillhouseError, prepare
from stillhouse.loop.phases import Phase
from stillhouse.schedule import Schedule


def test_a_warm_up_in_steps_or_epochs_is_that_of_the_fraction():
    by_fraction = Schedule(warmup=0.25, decay="cosine", final=0.1, peak=2.0)
    by_steps = Schedule(warmup_steps=10, decay="cosine", final=0.1, peak=2.0).to_steps(40, 8)
    by_epochs = Schedule(warmup_epochs=1.25, decay="cosine", final=0.1, peak=2.0).to_steps(40, 8)
    expected = [by_fraction.at(step, 40) for step in range(40)]
    assert [by_steps.at(step, 40) for step in range(40)] == expected
    assert [by_epochs.at(step, 40) for step in range(40)] == expected
    assert expected[:10] == pytest.approx([2.0 * (n + 1) / 10 for n in range(10)])


def test_every_warm_up_of_whole_steps_ends_where_it_says():
    for total in (3, 7, 30, 97):
        for steps in range(1, total + 1):
            values = [Schedule(warmup_steps=steps).at(n, total) for n in range(total)]
            assert values == pytest.approx([min(1.0, (n + 1) / steps) for n in range(total)])


def test_learning_rate_and_weights_warm_up_in_steps():
    features = {**FIVE["features"], "weight": {"warmup_epochs": 1}}
    training = prepare(recipe(features, FIVE["projector"], schedule={"warmup_steps": 4}), write=False)
    seen = []
    training.run.trainer.add_event_handler(
        Phase.LOSSES_COMPUTED,
        lambda: seen.append(
            (training.optimizer.param_groups[0]["lr"], training.run.trainer.state.step.weights["features"])
        ),
    )
    training.fit()
    assert [lr for lr, _ in seen] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert [weight for _, weight in seen] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def test_a_warm_up_that_does_not_end_is_refused():
    assert "the run has 6 steps" in faults({"schedule": {"warmup_steps": 7}})["schedule: warmup_steps"]
    features = {**FIVE["features"], "weight": {"warmup_epochs": 1.5, "until": 0.5}}
    assert "step 3 on" in faults({}, features, FIVE["projector"])["plugin 'features': weight: warmup_epochs"]
    with pytest.raises(StillhouseError, match="cannot be combined"):
        Schedule(warmup=0.1, warmup_steps=3)
    with pytest.raises(StillhouseError, match="must be finite and >= 0, got -1"):
        Schedule(warmup_epochs=-1.0)
