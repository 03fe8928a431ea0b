"""The observer: chooses steps, looks at them, gives what it found to be logged, and raises alarms."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stillhouse import Run, Step, hookimpl
from stillhouse.config.run_options import WatchSpec
from stillhouse.distributed import processes as parallel
from stillhouse.training.alarms import Alarms
from stillhouse.training.clock import Clock
from stillhouse_watcher.album import Album
from stillhouse_watcher.costs import Costs, Device
from stillhouse_watcher.look import Look
from stillhouse_watcher.pace import Pace
from stillhouse_watcher.rules import Rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Watcher"]


class Watcher:
    """Looks at what every plugin does and costs, on a few of the steps that are logged; between them it does nothing.

    It changes nothing of the training: a run ends with the weights that it has without.

    Args:
        spec: the recipe's ``[watch]``.
        clock: times the plugins' hooks, and calls before a chosen step.
        alarms: takes what is sick.
    """

    name = "watcher"

    def __init__(self, spec: WatchSpec, clock: Clock, alarms: Alarms) -> None:
        self._spec, self._clock, self._alarms = spec, clock, alarms
        self._look: Look | None = None
        self._album: Album | None = None
        self._has_looked = False
        self._looked = 0.0

    @hookimpl
    def started(self, run: Run) -> None:
        """Choose the first step to look at."""
        done = run.trainer.state.iteration
        self._costs, self._device = Costs(run, self._clock), Device(run, self._clock)
        self._rules = Rules(run, self._alarms)
        self._album = Album(run.total_steps) if run.writes and run.recipe.run.figures else None
        self._look = Look(run, self._clock, self._costs, self._album, gradients=self._spec.gradients)
        self._pace = Pace(
            self._spec,
            log_every=run.recipe.run.log_every,
            steps_per_epoch=run.steps_per_epoch,
            total=run.total_steps,
            done=done,
            now=time.perf_counter(),
        )
        self._rules.start(done)
        self._choose(done)

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor | float]:
        """What the look at this step has found, and how busy the device is: by tags of their own."""
        found: dict[str, Tensor | float] = {}
        if self._look is None:
            return found
        found |= self._device.read()
        self._has_looked = self._look.is_on
        if self._has_looked:
            found |= self._look.end(step)
            self._looked = time.perf_counter()
        return found

    @hookimpl
    def logged(self, step: Step, scalars: Mapping[str, float]) -> None:
        """Look for what is sick, and choose the next step."""
        done = step.iteration + 1
        if self._look is not None and self._has_looked:
            self._has_looked = False
            self._rules.look_at(done, scalars)
            now = time.perf_counter()
            # A look's figures are read, written and judged because of it: a run of short steps feels that, too.
            self._pace.add(done, self._look.seconds + now - self._looked, now)
        self._choose(done)

    @hookimpl
    def evaluated(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """Look at the scores."""
        if self._look is not None:
            self._rules.measure(run.trainer.state.iteration, split, metrics)

    def _choose(self, done: int) -> None:
        """Have the next step that is logged looked at, if it is its turn; in all processes alike."""
        if self._look is None:
            return
        step = parallel.broadcast_object(self._pace.choose(done, time.perf_counter()))
        if step is not None:
            self._clock.before(step, self._look.begin)

    @hookimpl
    def figures(self, run: Run) -> Mapping[str, Figure]:
        """Both sides' Gram matrices of each link, as the last look has seen them."""
        return {} if self._album is None else self._album.draw(run)

    def show(self, writer: SummaryWriter, run: Run) -> None:
        """Write the singular values of all looks, and the features of the last one for the projector."""
        if self._album is not None:
            self._album.show(writer, run)

    def summarise(self) -> dict[str, Any]:
        """``costs`` and ``alarms``, as plain data for the summary."""
        alarms = [alarm.to_dict() for alarm in self._alarms]
        if self._look is None:
            return {"costs": {}, "alarms": alarms}
        costs = {**self._device.summarise(), **self._costs.summarise()}
        if self._look.reason:
            costs["gradients"] = f"not taken: {self._look.reason}"
        return {"costs": costs, "alarms": alarms}
