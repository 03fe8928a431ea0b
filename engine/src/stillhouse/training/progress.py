"""What a terminal shows of a run: a progress bar while it trains, one line an epoch where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.terminal import Terminal

if TYPE_CHECKING:
    from stillhouse.contract.run import Run

__all__ = ["Progress"]

_REFRESH = 0.1
"""Seconds between two updates of the bar."""


class Progress:
    """Progress on standard error, so that standard output stays the result's.

    Args:
        enabled: False shows nothing.
    """

    name = "progress"

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._console = Terminal(stderr=True)
        self._bar: Bar | None = None
        self._updated = 0.0
        self._loss: float | None = None

    def say(self, text: str) -> None:
        """One line, where progress is shown."""
        if self.enabled:
            self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def counting(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how much of ``total`` is done while the block lasts: call what it gives with how much more is."""
        if not self.enabled or not self._console.is_terminal:
            self.say(f"{name}: {total:,} samples")
            yield lambda _more: None
            return
        columns = (
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=total)
            yield lambda more: bar.advance(task, more)

    @hookimpl
    def started(self, run: Run) -> None:
        """Show the run's steps from here on."""
        done = run.trainer.state.iteration
        if done:
            self.say(f"{run.recipe.run.name}: going on after step {done} of {run.total_steps}")
        if not self._console.is_terminal:
            return
        self._bar = Bar(
            TextColumn("{task.fields[name]}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task("", total=run.total_steps, completed=done, name=run.recipe.run.name, status="")
        self._bar.start()

    @hookimpl
    def logged(self, scalars: Mapping[str, float]) -> None:
        """Remember the loss."""
        self._loss = scalars["loss/total"]

    @hookimpl
    def iteration_completed(self, run: Run) -> None:
        """Move the bar on, ten times a second at most."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._updated >= _REFRESH:
            self._updated = now
            self._bar.update(self._bar.task_ids[0], completed=run.trainer.state.iteration, status=self._status(run))

    @hookimpl
    def epoch_completed(self, run: Run) -> None:
        """Say where the run is, where there is no bar."""
        if self._bar is None:
            self.say(f"{run.recipe.run.name}: {self._status(run)}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _status(self, run: Run) -> str:
        parts = [f"epoch {run.trainer.state.epoch}/{run.epochs}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        value = run.metrics.get("val", {}).get(run.task.score)
        if value is not None:
            parts.append(f"val {run.task.score} {value:.4f}")
        return "  ".join(parts)
