"""What a terminal shows of a run: a progress bar while it trains, one line an epoch where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ignite.engine import Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from stillhouse.contract.run import Run
    from stillhouse.training.monitor import Monitor

__all__ = ["Progress"]

_REFRESH = 0.1
"""Seconds between two updates of the bar."""


class Progress:
    """Progress on standard error, so that standard output stays the result's.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._console = Console(stderr=True)

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
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=total)
            yield lambda more: bar.advance(task, more)

    @contextmanager
    def training(self, run: Run, monitor: Monitor, done: int) -> Iterator[None]:
        """Show the run's steps while the block lasts; ``done`` steps were done before."""
        if not self.enabled:
            yield
            return
        if done:
            self.say(f"{run.recipe.run.name}: going on after step {done} of {run.total_steps}")
        if not self._console.is_terminal:
            run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.say(self._line(run, monitor)))
            yield
            return
        bar = Bar(
            TextColumn("[bold]{task.fields[name]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        task = bar.add_task("", total=run.total_steps, completed=done, name=run.recipe.run.name, status="")
        last = [0.0]

        def update() -> None:
            now = time.monotonic()
            if now - last[0] >= _REFRESH:
                last[0] = now
                bar.update(task, completed=run.trainer.state.iteration, status=self._status(run, monitor))

        run.trainer.add_event_handler(Events.ITERATION_COMPLETED, update)
        with bar:
            yield

    @staticmethod
    def _status(run: Run, monitor: Monitor) -> str:
        parts = [f"epoch {run.trainer.state.epoch}/{run.epochs}"]
        if "loss/total" in monitor.latest:
            parts.append(f"loss {monitor.latest['loss/total']:.4f}")
        value = run.metrics.get("val", {}).get(run.task.score)
        if value is not None:
            parts.append(f"val {run.task.score} {value:.4f}")
        return "  ".join(parts)

    def _line(self, run: Run, monitor: Monitor) -> str:
        return f"{run.recipe.run.name}: " + self._status(run, monitor)
