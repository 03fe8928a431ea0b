"""A training step never waits for the device: real models, every plugin, and what a recipe can switch on.

Left out: float16, whose scaler looks at the gradients; optimizers that are not fused; the exact spectral term and the
whitenings that factorise by eigh; torchvision's detection models.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from _gpu_cases import SETS, SMALL_PAIRS, TARGET_SET, Case, cases, recipe
from support import FIVE
from support.task_support import TASKS, task_recipe

from stillhouse import prepare
from stillhouse.loop.phases import Phase

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("no_looks"),
    # The guard lies around the step, in which torch's scheduler looks for the optimizer's own.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler"),
]

STEPS = 4
Guard = Callable[[], AbstractContextManager[None]]


def guarded_steps(training: Any, guard: Guard) -> int:
    """Train; every step after the second, in which caches fill, is guarded. How many were."""
    trainer, seen = training.run.trainer, []
    process = trainer._process_function

    def guarded(engine: Any, batch: Any) -> Any:
        if engine.state.iteration <= 2:
            return process(engine, batch)
        with guard():
            output = process(engine, batch)
        seen.append(output)
        return output

    trainer._process_function = guarded
    training.fit()
    assert torch.isfinite(torch.stack(seen)).all()
    return len(seen)


SMALL = [
    case
    for case in cases(SMALL_PAIRS)
    if case.kind == "plugins" and case.plugins != "spectral" and case.pair.name.startswith(("ResNet-18", "ViT-Tiny"))
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_with_every_list_of_plugins(case: Case, device: str, never_waits: Guard):
    training = prepare(recipe(case, device, steps=STEPS), write=False)
    # An attached handler makes every phase fire its event as well.
    for phase in Phase:
        training.run.trainer.add_event_handler(phase, lambda: None)
    assert guarded_steps(training, never_waits) == STEPS - 2


VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"run": {"precision": "float32"}},
    "accumulated": {"run": {"accumulate": 2}},
    "clipped": {"optimizer": {"clip_norm": 1.0}},
    "a teacher in bfloat16": {"run": {"precision": "float32"}, "speed": {"teacher_precision": "bfloat16"}},
    "averaged weights": {"ema": {"decay": 0.9}},
    "a warm-up": {"schedule": {"warmup_steps": 2, "decay": "cosine"}},
    "compiled": {"speed": {"compile": "both", "compile_args": {"backend": "aot_eager"}}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_what_a_recipe_switches_on(variant: str, device: str, never_waits: Guard):
    case = Case("plugins", SMALL_PAIRS["ViT-Tiny <- ViT-Small"], TARGET_SET)
    training = prepare(recipe(case, device, steps=STEPS, **VARIANTS[variant]), write=False)
    assert guarded_steps(training, never_waits) == STEPS - 2


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_with_every_task(name: str, accumulate: int, device: str, never_waits: Guard):
    made = task_recipe(
        name,
        FIVE["features"],
        FIVE["projector"],
        run={"device": device, "epochs": 2, "accumulate": accumulate},
        optimizer={"lr": 1e-3, "args": {"fused": True}},
    )
    assert guarded_steps(prepare(made, write=False), never_waits) == 4


def test_the_guard_sees_a_wait(device: str, never_waits: Guard):
    if device == "cpu":
        pytest.skip("only a device can be waited for")
    with pytest.raises(RuntimeError, match="synchroniz"), never_waits():
        torch.ones(3, device=device).sum().item()


def test_the_lists_above_leave_out_the_exact_term_only():
    assert {case.plugins for case in SMALL} == set(SETS) - {"spectral"}
