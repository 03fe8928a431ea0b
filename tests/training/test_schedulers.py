"""The learning rate over a run: ours in steps and with a floor, torch's and timm's by name, and their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import recipe, same_state, with_scores
from torch.optim import lr_scheduler

from stillhouse import StillhouseError, prepare, train
from stillhouse.schedule import Schedule

EPOCHS, STEPS = 4, 3


def rates(*, scores: list[float] | None = None, **changes: Any) -> list[float]:
    """The rate of each step of a run."""
    training = prepare(
        recipe(teacher=None, run__epochs=EPOCHS, optimizer={"name": "sgd", "lr": 1.0}, **changes), write=False
    )
    if scores is not None:
        with_scores(training, scores)
    found: list[float] = []
    training.run.trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: found.append(training.optimizer.param_groups[0]["lr"])
    )
    training.fit()
    return found


def by_torch(make: Any, per: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for step in range(1, EPOCHS * STEPS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % per == 0:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("table", "make", "per"),
    [
        ({"name": "step", "args": {"step_size": 2, "gamma": 0.5}}, lambda o: lr_scheduler.StepLR(o, 2, 0.5), STEPS),
        ({"name": "multistep", "args": {"milestones": [1, 3]}}, lambda o: lr_scheduler.MultiStepLR(o, [1, 3]), STEPS),
        (
            {"name": "multisteplr", "args": {"milestones": [5]}, "per": "step"},
            lambda o: lr_scheduler.MultiStepLR(o, [5]),
            1,
        ),
        (
            {"name": "onecycle", "args": {"cycle_momentum": False}},
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=EPOCHS * STEPS, cycle_momentum=False),
            1,
        ),
        (
            {"name": "torch.optim.lr_scheduler:CosineAnnealingLR", "args": {"T_max": 3, "eta_min": 0.1}},
            lambda o: lr_scheduler.CosineAnnealingLR(o, 3, 0.1),
            STEPS,
        ),
        ({"decay": "steps", "milestone_epochs": [1, 3]}, lambda o: lr_scheduler.MultiStepLR(o, [1, 3]), STEPS),
        (
            {"decay": "steps", "milestones": [0.5], "factor": 0.3},
            lambda o: lr_scheduler.MultiStepLR(o, [2], 0.3),
            STEPS,
        ),
    ],
)
def test_rates_are_those_of_torchs_own_loop(table: dict[str, Any], make: Any, per: int):
    assert rates(schedule=table) == pytest.approx(by_torch(make, per))


def test_plateau_goes_by_the_score_that_the_recipe_chooses():
    table = {"name": "plateau", "args": {"patience": 0, "factor": 0.1}}
    found = rates(schedule=table, scores=[0.5, 0.5, 0.6, 0.6])[::STEPS]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.1])
    falling = rates(schedule=table, scores=[0.5, 0.4, 0.3, 0.2], checkpoints={"score_mode": "min"})
    assert falling == [1.0] * EPOCHS * STEPS


def test_timms_schedulers_are_told_where_they_are():
    scheduler = pytest.importorskip("timm.scheduler")
    table = {"name": "timm.scheduler:CosineLRScheduler", "args": {"t_initial": 4, "lr_min": 0.1, "warmup_t": 1}}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs, wanted = scheduler.CosineLRScheduler(optimizer, t_initial=4, lr_min=0.1, warmup_t=1), []
    for epoch in range(EPOCHS):
        wanted += [optimizer.param_groups[0]["lr"]] * STEPS
        theirs.step(epoch + 1)
    assert rates(schedule=table) == pytest.approx(wanted)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_floor_is_reached_and_holds(decay: Any):
    schedule = Schedule(decay=decay, final=0.1, decay_until=0.75, warmup=0.25)
    values = [schedule.at(step, 40) for step in range(40)]
    assert values[30:] == [pytest.approx(0.1)] * 10
    assert values[29] > 0.1
    assert values == [
        Schedule(decay=decay, final=0.1, until=0.75, warmup=0.25).at(step, 40) or pytest.approx(0.1)
        for step in range(40)
    ]


@pytest.mark.parametrize(
    "table",
    [
        {"name": "plateau", "args": {"patience": 0}},
        {"name": "onecycle", "args": {"cycle_momentum": False}},
        {"name": "multistep", "args": {"milestones": [2, 3]}},
        {"decay": "steps", "milestone_steps": [4]},
    ],
)
def test_a_run_goes_on_with_the_schedulers_state(table: dict[str, Any], tmp_path: Path):
    made = recipe(teacher=None, run__epochs=3, schedule=table, optimizer={"name": "sgd", "lr": 0.1})
    whole = train(made, out=tmp_path / "whole")
    training = prepare(made, out=tmp_path / "cut")
    training.run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), training.run.trainer.terminate)
    training.fit()
    (tmp_path / "cut" / "summary.json").unlink()
    again = train(made, out=tmp_path / "cut", resume=True)
    assert again.summary["resumed_at_step"] == 6
    assert same_state(again.student.state_dict(), whole.student.state_dict())


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "stpe"}, r"schedule.name: unknown scheduler 'stpe' \(did you mean 'step'"),
        ({"name": "step", "args": {"stepsize": 2}}, r"schedule.args.stepsize: StepLR has no argument 'stepsize'"),
        ({"name": "step"}, r"schedule: StepLR with .*missing 1 required positional argument"),
        ({"name": "step", "decay": "cosine"}, r"name: cannot be combined with `decay`"),
        ({"args": {"step_size": 2}}, r"args: needs `name`"),
        ({"name": "torch.nn:Linear"}, r"schedule.name: 'torch.nn:Linear' must be a class of schedulers"),
        ({"decay": "steps"}, r"decay: 'steps' needs one of milestones, milestone_steps, milestone_epochs, got none"),
        ({"milestones": [0.5]}, r'milestones: needs decay = "steps"'),
        ({"decay": "steps", "milestones": [0.5, 0.2]}, r"milestones: must be > 0 and rise"),
        ({"decay_until": 0.5}, r"decay_until: needs a decay"),
        (
            {"decay": "cosine", "decay_until": 0.2, "warmup_steps": 6},
            r"decay_until: the warm-up of 6 steps must end before",
        ),
        (
            {"decay": "linear", "decay_until": 0.4, "warmup_epochs": 2},
            r"decay_until: the warm-up of 6 steps must end before",
        ),
        (
            {"name": "plateau", "per": "step"},
            r"schedule.per: must be 'epoch' of a scheduler that goes by the validation",
        ),
        ({"name": "onecycle", "args": {"total_steps": 5}}, r"total_steps: must be at least the run's 6 steps, got 5"),
        ({"decay": "cosine", "decay_until": 1.5}, r"decay_until: must be in \[warmup, until\]"),
    ],
)
def test_what_is_no_schedule_is_refused(table: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(teacher=None, schedule=table), write=False)


def test_recipes_from_before_are_the_same_runs():
    plain = recipe(schedule={"decay": "cosine"})
    assert set(plain.to_dict()["schedule"]) == {"peak", "warmup", "decay", "final", "until"}
    assert "sampling" not in plain.to_dict()["data"]
    assert set(plain.to_dict()["optimizer"]) == {"name", "lr", "args"}


def test_timms_schedulers_move_in_the_unit_that_they_are_made_for():
    pytest.importorskip("timm")
    args = {"t_initial": EPOCHS * STEPS, "t_in_epochs": False, "lr_min": 0.1}
    table = {"name": "timm.scheduler:CosineLRScheduler", "args": args}
    found = rates(schedule=table)
    assert len(set(found)) == EPOCHS * STEPS  # another in each step
    with pytest.raises(StillhouseError, match="must be 'step', as t_in_epochs = false has it, got 'epoch'"):
        rates(schedule={**table, "per": "epoch"})
