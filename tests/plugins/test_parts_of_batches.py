"""What needs a number of rows is held to those of a part of a batch, where ``accumulate`` divides it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import recipe

from stillhouse import StillhouseError, prepare

NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}


def link(pool: str = "mean") -> dict[str, Any]:
    return {"use": "features", "links": [{"student": "body", "teacher": "body", "pool": pool}]}


@pytest.mark.parametrize(("parts", "rank", "fits"), [(1, 3, True), (2, 3, True), (2, 4, False), (4, 2, False)])
def test_a_rank_is_below_the_rows_of_a_part(parts: int, rank: int, fits: bool):
    made = recipe(
        {"use": "spectral", "layer": "norm", "rank": rank},
        student={**NO_DROPOUT, "args": {"width": 16}},
        run__accumulate=parts,
    )
    if fits:
        prepare(made, write=False).close()
        return
    with pytest.raises(StillhouseError, match=f"must be below the {8 // parts} rows at once"):
        prepare(made, write=False)


def test_unlabelled_samples_are_rows_as_well():
    data = {
        "name": "sklearn:digits",
        "per_class": 2,
        "pool": "rest",
        "batch_size": 4,
        "unlabelled_ratio": 4.0,
        "size": 6,
        "channels": 3,
    }
    made = recipe(
        {"use": "spectral", "layer": "norm", "rank": 4}, student={**NO_DROPOUT, "args": {"width": 16}}, data=data
    )
    prepare(made, write=False).close()


def test_a_shrinkage_is_held_to_the_rows_of_a_part():
    plugins = [link(), {"use": "normalizer", "kind": "whiten", "eps": 1e-5}]
    narrow = {"student": NO_DROPOUT, "teacher": {"model": "support:TinyNet", "args": {"width": 4}, "random": True}}
    prepare(recipe(*plugins, **narrow), write=False).close()  # 8 rows of 4 channels
    with pytest.raises(StillhouseError, match="4 samples at once give 4 rows of 4 channels"):
        prepare(recipe(*plugins, **narrow, run__accumulate=2), write=False)


def test_the_fraction_of_a_part_is_its_own():
    made = recipe(
        {"use": "spectral", "layer": "norm", "rank": 0}, student=NO_DROPOUT, run__accumulate=2, run__log_every=1
    )
    training = prepare(made, write=False)
    seen: list[float] = []

    def look() -> None:
        step = training.run.trainer.state.step
        (plugin,) = training.run.plugins
        seen.append(float(plugin.scalars(step)["tail_fraction"]))

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    training.fit()
    torch.testing.assert_close(torch.tensor(seen), torch.ones(len(seen)))  # rank 0 penalises all there is
