"""Stillhouse trains as a loop written by hand does, to the bit: the same operations on the same numbers in the same order."""

from __future__ import annotations

import torch
from by_hand import by_hand
from support import FIVE, recipe, same_state

from stillhouse import prepare, rng


def test_the_five_plugins_train_as_the_loop_by_hand():
    plugins = [FIVE["features"], FIVE["normalizer"], FIVE["projector"], FIVE["spectral"], FIVE["logits"]]
    ours = prepare(recipe(*plugins, run__epochs=4), write=False)
    hand = prepare(recipe(*plugins, run__epochs=4), write=False)
    step = by_hand(hand, "body", "body", 2)
    losses: list[torch.Tensor] = []
    from ignite.engine import Events

    ours.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output))
    ours.fit()
    rng.seed_everything(rng.derive(hand.run.seed, "training"))
    hand.run.student.train()
    stream = hand.data.training()
    expected = [step(None, next(stream)) for _ in range(hand.run.total_steps)]
    assert len(losses) == 12
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert same_state(ours.run.student.state_dict(), hand.run.student.state_dict())
    assert same_state(ours.run.module("projector").state_dict(), hand.run.module("projector").state_dict())
