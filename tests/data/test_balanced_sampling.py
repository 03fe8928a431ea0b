"""Balanced sampling: each class equally often in an epoch, and streams that start anywhere."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import recipe, same_state, tiny_data

from stillhouse import StillhouseError, prepare, train
from stillhouse.data.sampler import EpochBatches, draw_balanced


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_classes_come_equally_often_and_no_sample_twice_more_than_another(counts: list[int], seed: int, epoch: int):
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    drawn = draw_balanced(seed, epoch, labels)
    assert len(drawn) == len(labels)
    times = np.bincount(labels[drawn], minlength=3 * len(counts))[::3]
    assert times.max() - times.min() <= 1
    each = np.bincount(drawn, minlength=len(labels))
    for label in np.unique(labels):
        own = each[labels == label]
        assert own.max() - own.min() <= 1
    assert (draw_balanced(seed, epoch, labels) == drawn).all()


def test_a_stream_starts_anywhere_as_if_it_had_gone_on():
    labels = np.repeat([0, 1, 2], [20, 6, 2]).astype(np.int64)
    ids = np.arange(100, 100 + len(labels))

    def keys(start: int) -> EpochBatches:
        return EpochBatches(ids=ids, batch_size=5, drop_last=False, seed=4, start_step=start, labels=labels)

    whole = list(islice(keys(0), 20))
    for start in (1, 5, 6, 13):
        for key, wanted in zip(islice(keys(start), 20 - start), whole[start:], strict=True):
            assert key.epoch == wanted.epoch
            assert (key.ids == wanted.ids).all()


def test_a_run_goes_on_bit_for_bit(tmp_path: Path):
    made = recipe(teacher=None, data__sampling="balanced", run__epochs=3, checkpoints={"every_steps": 2})
    whole = train(made, out=tmp_path / "whole")
    training = prepare(made, out=tmp_path / "cut")

    class CutError(Exception):
        pass

    def cut(engine: object) -> None:
        if training.run.trainer.state.iteration == 5:
            raise CutError

    from ignite.engine import Events

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, cut)
    with pytest.raises(CutError):
        training.fit()
    again = train(made, out=tmp_path / "cut", resume=True)
    assert again.summary["resumed_at_step"] == 4
    assert same_state(again.student.state_dict(), whole.student.state_dict())
    plain = train(recipe(teacher=None, run__epochs=3), write=False)
    assert not same_state(plain.student.state_dict(), whole.student.state_dict())


def regressed() -> dict[str, object]:
    from torch.utils.data import TensorDataset

    return {name: TensorDataset(s.tensors[0], s.tensors[0].mean((2, 3))) for name, s in tiny_data().items()}


def test_targets_that_are_no_classes_cannot_be_balanced():
    made = recipe(
        teacher=None,
        data={"name": f"{__name__}:regressed", "args": {"target": "vector"}, "sampling": "balanced", "batch_size": 8},
        task={"name": "regression"},
    )
    with pytest.raises(StillhouseError, match=r"data.sampling: 'balanced' needs targets of kind 'class', got 'vector'"):
        prepare(made, write=False)
