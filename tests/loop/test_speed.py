"""Speed options: fused optimizers, the digest that tells runs apart, the same run when resumed, no waiting for CUDA."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, recipe, same_state
from support.speed import EAGER, SGD, faults, state

from stillhouse import prepare, train


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


# optimizers and schedules


def test_a_fused_optimizer_steps_alike():
    plain = train(recipe(optimizer=SGD), write=False)
    fused = train(recipe(optimizer={**SGD, "args": {"momentum": 0.9, "fused": True}}), write=False)
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(fused)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"name": "adamw", "args": {"fused": True, "foreach": True}}, "cannot be"),
        ({"name": "rmsprop", "args": {"fused": True}}, "no argument 'fused'"),
    ],
)
def test_what_cannot_be_fused_is_said(optimizer: dict[str, Any], says: str):
    found = faults({"optimizer": optimizer})
    assert says in next(iter(found.values()))
    assert all(where.startswith("optimizer") for where in found)


# what a run is


def test_the_digest_tells_runs_apart():
    changes: list[dict[str, Any]] = [
        {},
        {"speed": {"channels_last": True}},
        {"speed": {"compile": "student"}},
        {"speed": {"teacher_precision": "bfloat16"}},
        {"speed": {"fold_norms": False}},
        {"ema": {}},
        {"ema": {"decay": 0.9}},
        {"early_stopping": {}},
        {"schedule": {"warmup_steps": 2}},
        {"data__batch_transforms": [{"use": "MixUp"}]},
    ]
    digests = [recipe(**change).digest() for change in changes]
    assert len(set(digests)) == len(changes)


@pytest.mark.parametrize(
    "speed", [{"compile": "both", **EAGER}, {"channels_last": True}, {"teacher_precision": "bfloat16"}]
)
def test_a_resumed_run_is_the_same_bit_for_bit(speed: dict[str, Any], tmp_path):
    made = recipe(*FIVE.values(), speed=speed, checkpoints={"every_steps": 2}, schedule={"warmup_steps": 2})
    whole = train(made, write=False)
    training = prepare(made, out=tmp_path / "run")
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: _stop_at(training, 5))
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = train(made, out=tmp_path / "run", resume=True)
    assert again.summary["resumed_at_step"] == 4
    assert same_state(state(whole), state(again))


def _stop_at(training: Any, step: int) -> None:
    if training.run.trainer.state.iteration == step:
        raise KeyboardInterrupt


@pytest.mark.gpu
@pytest.mark.parametrize(
    "speed",
    [
        {"channels_last": True, "teacher_precision": "bfloat16"},
        {"compile": "both"},
        {"compile": "both", "channels_last": True, "compile_args": {"mode": "reduce-overhead"}},
    ],
)
def test_no_option_makes_the_step_wait_for_cuda(speed: dict[str, Any]):
    if not torch.cuda.is_available():
        pytest.fail("needs a CUDA device")
    plugins = [*(t for n, t in FIVE.items() if n != "spectral"), {**FIVE["spectral"], "method": "warm"}]
    settings: dict[str, Any] = {
        "run__device": "cuda",
        "run__precision": "bfloat16",
        "run__log_every": 1000,
        "run__epochs": 3,
        "data__drop_last": True,
        "data__batch_transforms": [{"use": "MixUp"}],
        "optimizer": {"lr": 1e-2, "args": {"fused": True}},
        "ema": {},
    }
    training = prepare(recipe(*plugins, **settings, speed=speed), write=False)
    process = training.run.trainer._process_function

    def guarded(engine: Any, batch: Any) -> Any:
        # The first epoch compiles; the last step of each epoch is logged, which is one copy of all scalars.
        logged = engine.state.iteration % training.run.steps_per_epoch == 0
        torch.cuda.set_sync_debug_mode("error" if engine.state.iteration > 3 and not logged else "default")
        try:
            return process(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    training.run.trainer._process_function = guarded
    result = training.fit()
    assert result.metrics["val"].keys() == result.metrics["val_ema"].keys()
    assert training.observers.ema.updates == 9
