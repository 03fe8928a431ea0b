"""A signal that comes while the processes ask one another whether any has heard one."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from stillhouse.distributed import processes as parallel
from stillhouse.training.interruption import Interruption


@pytest.mark.parametrize("asked", ["logged", "completed"])
def test_it_is_kept_for_the_next_time(monkeypatch: pytest.MonkeyPatch, asked: str):
    handlers: list[Any] = []
    own: Any = Interruption(SimpleNamespace(write_last=lambda run: None))  # type: ignore[arg-type]
    own._run = SimpleNamespace(trainer=SimpleNamespace(add_event_handler=lambda *given: handlers.append(given)))
    gathered: list[list[int]] = []

    def gather(number: int) -> list[int]:
        if not gathered:
            own._hear(signal.SIGTERM)  # after this process has told that it has heard nothing
        gathered.append([number, 0])
        return gathered[-1]

    monkeypatch.setattr(parallel, "is_distributed", lambda: True)
    monkeypatch.setattr(parallel, "gather_objects", gather)
    getattr(own, asked)()
    assert not handlers
    own.logged()
    assert gathered == [[0, 0], [signal.SIGTERM, 0]]
    assert len(handlers) == 2
