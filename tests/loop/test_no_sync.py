"""A training step never waits for the device: no tensor becomes a Python number, list, array or condition.

On the CPU a dispatch mode sees the operator behind ``.item()``, ``float()``, ``bool()`` and data-dependent branches, and
the accessors that bypass it are patched. On CUDA ``set_sync_debug_mode`` does the same in earnest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support import FIVE, recipe
from support.no_sync import SynchronisedError, no_synchronisation
from support.pcgrad import PCGRAD
from support.task_support import TASKS, task_recipe

from stillhouse import Plugin, Weight, hookimpl, plugin, prepare
from stillhouse.loop.phases import Phase
from stillhouse.training.scalars import StepScalars


def run_guarded(training: Any) -> int:
    """Fit with every step guarded, the optimizer's own work aside (AdamW reads its step counter on the CPU)."""
    trainer, steps = training.run.trainer, []
    process, step = trainer._process_function, training.optimizer.step

    def unguarded_step(*args: Any, **kwargs: Any) -> Any:
        with kept[1]():
            return step(*args, **kwargs)

    @contextmanager
    def lifted() -> Iterator[None]:
        guard = kept[0]
        guard.__exit__(None, None, None)
        try:
            yield
        finally:
            kept[0] = no_synchronisation()
            kept[0].__enter__()

    kept: list[Any] = [None, lifted]

    def guarded(engine: Any, batch: Any) -> Any:
        kept[0] = no_synchronisation()
        kept[0].__enter__()
        try:
            return process(engine, batch)
        finally:
            kept[0].__exit__(None, None, None)
            steps.append(1)

    training.optimizer.step = unguarded_step
    trainer._process_function = guarded
    training.fit()
    return len(steps)


@pytest.fixture(autouse=True)
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is read on purpose, every so many steps: no part of what is asserted here."""
    monkeypatch.setattr(StepScalars, "log_step", lambda _self, _run, _step: 1 << 60)


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "all five": list(FIVE.values()),
    "retraction on maps": [
        {**FIVE["features"], "links": [{"student": "body", "teacher": "body", "pool": "none"}]},
        FIVE["projector"],
    ],
    "inverted, mlp": [FIVE["features"], {"use": "projector", "kind": "mlp", "side": "teacher"}],
    "matrix exponential": [FIVE["features"], {"use": "projector", "map": "matrix_exp"}],
    "cayley": [FIVE["features"], {"use": "projector", "map": "cayley"}],
    "batch": [FIVE["features"], {"use": "normalizer", "kind": "batch"}, FIVE["projector"]],
    "rms": [FIVE["features"], {"use": "normalizer", "kind": "rms"}, FIVE["projector"]],
    "whiten": [FIVE["features"], {"use": "normalizer", "kind": "whiten", "eps": 1e-2}, FIVE["projector"]],
    "zca both": [
        FIVE["features"],
        {"use": "normalizer", "kind": "whiten", "whitening": "zca", "side": "both", "eps": 1e-2},
        FIVE["projector"],
    ],
    "warm spectral": [{**FIVE["spectral"], "method": "warm"}],
    "tcs": [{"use": "tcs", "layer": "dropout"}],
    "tcs, elsh, selection, views": [{"use": "tcs", "layer": "dropout", "preset": "paper", "keep": 2, "views": 2}],
    "tcs, logits, pool": [{"use": "tcs", "layer": "dropout", "mimic": "logits", "mimic_on": "pool"}],
    "cache": [{"use": "cache"}, FIVE["features"], FIVE["projector"], FIVE["logits"]],
    "combined gradients": [FIVE["features"], FIVE["projector"], FIVE["logits"], PCGRAD],
    "scheduled weight": [{**FIVE["features"], "weight": {"warmup": 0.5, "decay": "cosine"}}, FIVE["projector"]],
}


# The guard puts itself around optimizer.step, which torch's scheduler notices.
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_step_reads_no_tensor(variant: str):
    pool = {"data__pool": "all"} if "pool" in variant else {}
    training = prepare(recipe(*VARIANTS[variant], schedule={"warmup": 0.2}, **pool), write=False)
    # An attached handler makes every phase fire its event as well.
    for phase in Phase:
        training.run.trainer.add_event_handler(phase, lambda: None)
    assert run_guarded(training) == 6


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@pytest.mark.parametrize("name", TASKS)
def test_the_step_of_a_task_reads_no_tensor(name: str):
    assert run_guarded(prepare(task_recipe(name, FIVE["features"], FIVE["projector"]), write=False)) == 6


@pytest.mark.parametrize("reader", ["item", "tolist", "numpy", "bool", "float", "mask"])
def test_the_guard_catches_a_plugin_that_reads(reader: str):
    @plugin
    class Reader(Plugin):
        """Reads its loss."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            value = step.student.output.square().mean()
            if step.student.output.requires_grad:
                plain = value.detach()
                _ = {
                    "item": lambda: plain.item(),
                    "tolist": lambda: plain.tolist(),
                    "numpy": lambda: plain.numpy(),
                    "bool": lambda: bool(plain > 0),
                    "float": lambda: float(plain),
                    "mask": lambda: step.targets[step.targets > 0],
                }[reader]()
            return {"": value}

    with pytest.raises(SynchronisedError):
        run_guarded(prepare(recipe(), plugins=[Reader()], write=False))


# These factorise on the GPU, and torch reads the factorisation's error code back: eigh (exact spectral, ZCA), the matrix
# exponential and Cayley's solve have no variant that does not. Everything else must run without a wait.
WAITING = {"all five", "zca both", "matrix exponential", "cayley"}
ON_CUDA = {
    "all five, warm": [*(t for n, t in FIVE.items() if n != "spectral"), {**FIVE["spectral"], "method": "warm"}],
    **{name: plugins for name, plugins in VARIANTS.items() if name not in WAITING},
}


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ON_CUDA)
def test_the_step_does_not_synchronise_with_cuda(variant: str):
    training = prepare(recipe(*ON_CUDA[variant], run__device="cuda", run__log_every=1000), write=False)
    process = training.run.trainer._process_function

    def guarded(engine: Any, batch: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if engine.state.iteration > 2 else "default")
        try:
            return process(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    training.run.trainer._process_function = guarded
    training.fit()
