"""A plugin that sends its own process signals, when the environment says: ``SIGNALS = "15 step 1"``."""

from __future__ import annotations

import os
from typing import Any

from stillhouse import Plugin, hookimpl, plugin


@plugin
class Signalling(Plugin):
    """Sends a signal so many times: before the run, in its fifth step, while an epoch is measured, while all is at the end."""

    def _send(self, when: str) -> None:
        number, chosen, times = os.environ.get("SIGNALS", "0 never 0").split()
        for _ in range(int(times) if when == chosen else 0):
            os.kill(os.getpid(), int(number))

    @hookimpl
    def adapt(self, assembly: Any, student: Any) -> None:
        """Before the run."""
        self._send("before")

    @hookimpl
    def iteration_started(self, run: Any) -> None:
        """In a step."""
        if run.trainer.state.iteration == 5:
            self._send("step")

    @hookimpl
    def evaluated(self, run: Any, split: str) -> None:
        """While something is measured."""
        if split == "test" or run.trainer.state.epoch == 2:
            self._send("test" if split == "test" else "validation")
