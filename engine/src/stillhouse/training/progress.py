"""What a terminal shows of a run: a line an epoch above a progress bar; in a log, some dozens of lines and no bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.terminal import Terminal

if TYPE_CHECKING:
    from stillhouse.contract.run import Run

__all__ = ["Detail", "Progress"]

Detail = bool | Literal["verbose"]
"""What is shown of a run: nothing, progress, or each epoch with every loss and metric."""

_REFRESH = 0.1
"""Seconds between two updates of the bar."""


_LINES = 40
"""Epochs that a log says something of; each where there is a terminal."""


class Progress:
    """Progress on standard error, so that standard output stays the result's.

    Args:
        detail: False shows nothing; True one line an epoch, in a log only so many; ``"verbose"`` each epoch, with its losses,
            metrics and speed.
    """

    name = "progress"

    def __init__(self, detail: Detail) -> None:
        self.enabled = bool(detail)
        self.detail = detail
        self._console = Terminal(stderr=True)
        self._bar: Bar | None = None
        self._updated = 0.0
        self._scalars: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line, above the bar, where progress is shown."""
        if self.enabled:
            self._console.print(text, soft_wrap=True)

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
        elif about := _describe_score(run):
            self.say(f"{run.recipe.run.name}: the score is {about}")
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
        """Remember the losses."""
        self._scalars = dict(scalars)

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
        """Say where the run is, above the bar; without a terminal only some dozens of times."""
        epoch = run.trainer.state.epoch
        new = epoch in (1, run.epochs) or epoch * _LINES // run.epochs > (epoch - 1) * _LINES // run.epochs
        if new or self._console.is_terminal or self.detail == "verbose":
            self.say(f"{run.recipe.run.name}: {self._status(run)}{self._details(run)}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _status(self, run: Run) -> str:
        parts = [f"epoch {run.trainer.state.epoch}/{run.epochs}"]
        if "loss/total" in self._scalars:
            parts.append(f"loss {self._scalars['loss/total']:.4f}")
        score = _name_score(run)
        value = run.metrics.get("val", {}).get(score)
        if value is not None:
            parts.append(f"val {score} {value:.4f}")
        return "  ".join(parts)

    def _details(self, run: Run) -> str:
        """What else was logged last, and the other metrics of the validation split."""
        if self.detail != "verbose":
            return ""
        more = {name: value for name, value in self._scalars.items() if name != "loss/total"}
        more |= {f"val/{name}": value for name, value in run.metrics.get("val", {}).items() if name != _name_score(run)}
        return "".join(f"\n    {name} {value:.4g}" for name, value in sorted(more.items()))


def _describe_score(run: Run) -> str:
    from stillhouse.training.score import describe_score  # here for the same reason

    return describe_score(run.recipe.checkpoints, run.task, run.data.sizes)


def _name_score(run: Run) -> str:
    from stillhouse.training.score import (
        find_score,
    )  # here: what is shown of commands that train nothing imports no torch

    return find_score(run.recipe.checkpoints, run.task).name
