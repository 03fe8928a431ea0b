"""Optimizers with a train and an eval mode: trained in the one, measured, saved and exported in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import FIVE, interrupted, recipe, same_state
from support.schedule_free import ScheduleFreeSGD
from torch import nn

from stillhouse import StillhouseError, evaluate, load_student, prepare, train
from stillhouse.models.weights import find_last_checkpoint, read_checkpoint

SPEC: dict[str, Any] = {"name": "support.schedule_free:ScheduleFreeSGD", "lr": 0.05}
CHANGES: dict[str, Any] = {"optimizer": SPEC, "run__epochs": 3, "checkpoints": {"every_steps": 1}}


def test_the_stand_in_is_the_published_algorithm():
    """x, y and z of a quadratic, step by step in float64."""
    p = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = ScheduleFreeSGD([p], lr=0.1, beta=0.9)
    z = x = p.detach().clone()
    optimizer.train()
    for k in range(5):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(p.detach(), y)
        p.grad = 2 * p.detach()
        optimizer.step()
        z = z - 0.1 * 2 * y
        x = x + (z - x) / (k + 1)
    optimizer.eval()
    torch.testing.assert_close(p.detach(), x)


def test_what_is_measured_saved_loaded_and_given_are_the_weights_of_eval_mode(tmp_path: Path):
    training = prepare(recipe(**CHANGES), out=tmp_path / "run")
    trained: list[dict[str, torch.Tensor]] = []
    from ignite.engine import Events

    training.run.trainer.add_event_handler(
        Events.COMPLETED, lambda: trained.append({k: v.clone() for k, v in training.run.student.state_dict().items()})
    )
    result = training.fit()
    given = result.student.state_dict()
    assert not torch.equal(trained[0]["head.weight"], given["head.weight"])
    training.optimizer.eval()  # it is: nothing changes
    assert same_state(given, result.student.state_dict())
    assert same_state(load_student(tmp_path / "run", weights="last").state_dict(), given)
    assert evaluate(tmp_path / "run", split="all", weights="last").metrics["val"] == result.metrics["val"]
    assert set(result.metrics) == {"val", "test"}
    saved = read_checkpoint(find_last_checkpoint(tmp_path / "run" / "checkpoints"), "")  # type: ignore[arg-type]
    assert torch.equal(saved["model"]["student.head.weight"], trained[0]["head.weight"])


@pytest.mark.parametrize("at", [3, 4, 8])
def test_a_run_goes_on_bit_for_bit(at: int, tmp_path: Path):
    plugins = [FIVE["features"], FIVE["projector"]]
    whole = train(recipe(*plugins, **CHANGES), write=False)
    interrupted(prepare(recipe(*plugins, **CHANGES), out=tmp_path / "run"), at=at)
    resumed = train(recipe(*plugins, **CHANGES), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == at
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    assert whole.history == resumed.history
    again = train(recipe(*plugins, **CHANGES), out=tmp_path / "run", resume=True)
    assert same_state(whole.student.state_dict(), again.student.state_dict())


def test_how_often_is_measured_changes_no_weight(tmp_path: Path):
    often = train(recipe(**CHANGES), out=tmp_path / "run")
    seldom = train(recipe(**{**CHANGES, "run__validate_every": 3, "checkpoints": {}}), write=False)
    assert same_state(often.student.state_dict(), seldom.student.state_dict())


def test_a_second_average_is_refused():
    with pytest.raises(StillhouseError, match=r"ema: no second average is kept: .*ScheduleFreeSGD has one"):
        prepare(recipe(**CHANGES, ema={"decay": 0.9}), write=False)
