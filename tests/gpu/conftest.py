"""The device that these tests need, and a way to run them without it: STILLHOUSE_GPU_TESTS_ON=cpu rehearses them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from stillhouse.training.scalars import StepScalars

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # the loop by hand and its cases


@pytest.fixture
def device() -> str:
    """``cuda``; the test is skipped where there is none, unless it is to be rehearsed on the CPU."""
    wanted = os.environ.get("STILLHOUSE_GPU_TESTS_ON", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return wanted


@pytest.fixture
def never_waits(device: str) -> Callable[[], AbstractContextManager[None]]:
    """A context in which waiting for the device is an error; on the CPU it is none."""

    @contextmanager
    def guard() -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return nullcontext if device == "cpu" else guard


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is read on purpose, every so many steps."""
    monkeypatch.setattr(StepScalars, "log_step", lambda _self, _run, _step: 1 << 60)


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()
