"""Progress of many runs on the terminal: a bar, or one line for each run where there is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from stillhouse.experiments.job import Outcome
from stillhouse.terminal import Terminal

__all__ = ["Counter"]


class Counter:
    """Counts runs on standard error; a context manager.

    Args:
        name: the ablation's name.
        total: the number of runs.
        done: the number of runs finished before.
        enabled: False shows nothing.
    """

    def __init__(self, name: str, total: int, done: int, *, enabled: bool) -> None:
        self._console = Terminal(stderr=True)
        self._name, self._total, self._done, self._failed = name, total, done, 0
        self._enabled = enabled
        self._bar: Bar | None = None
        if enabled and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, status="")

    def __enter__(self) -> Counter:
        if self._enabled and self._done:
            self._say(f"{self._name}: {self._done} of {self._total} runs are finished already")
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def count(self, outcome: Outcome) -> None:
        """Count a run that has ended."""
        if not self._enabled:
            return
        job = outcome.job
        if outcome.summary is None:
            self._failed += 1
            self._say(f"failed: {job.arm}, seed {job.seed}: {outcome.error}", "red")
        else:
            self._done += 1
        ended = self._done + self._failed
        if self._bar is not None:
            status = f"{job.arm}, seed {job.seed}" + (f"; {self._failed} failed" if self._failed else "")
            self._bar.update(self._task, completed=ended, status=status)
        elif outcome.summary is not None:
            self._say(f"{self._name}: {ended}/{self._total}  {job.arm}, seed {job.seed}")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)
