"""The time that an experiment takes, over all the calls in which it was trained."""

from __future__ import annotations

import json
import time
from pathlib import Path

__all__ = ["Clock"]


class Clock:
    """Runs from when it is made.

    Args:
        folder: of the experiment's runs, beside that of the runs that choose values.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._begun, self._before = folder, time.monotonic(), self._runs(folder)

    def minutes(self) -> float | None:
        """With this call; None where some of the runs are from a call that was not timed."""
        file, runs = self._folder / "clock.json", self._runs(self._folder)
        told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": 0, "minutes": 0.0}
        if runs > self._before:
            spent = (time.monotonic() - self._begun) / 60
            told = {"runs": told["runs"] + runs - self._before, "minutes": told["minutes"] + spent}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(told), encoding="utf-8")
        return told["minutes"] if told["runs"] == runs else None

    @staticmethod
    def _runs(folder: Path) -> int:
        return sum(1 for where in (folder, Path(f"{folder}-tuning")) for _ in where.rglob("summary.json"))
