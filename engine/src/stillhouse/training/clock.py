"""Where the time of a run goes: waiting for data in every step, the plugins' hooks in those that are looked at."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch.profiler import record_function

from stillhouse.contract.batch import Batch
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Named
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks

__all__ = ["IN_THE_STEP", "Clock"]

IN_THE_STEP = {
    *("prepare_batch", "transform", "sample_weights", "losses"),
    *("forward_completed", "losses_computed", "backward_completed", "optimizer_stepped"),
    *("get_batch_started", "get_batch_completed", "iteration_started", "iteration_completed"),
}
"""Hooks that are timed in single steps only; the others come with what is logged or once an epoch, and are timed always."""


class Clock:
    """Measures where time goes, and says before which step somebody wants to look.

    A step that nobody looks at pays for two readings of the processor's clock. In one that is looked at each hook waits
    for the device before and after, so that what it starts there is counted where it was started.

    Args:
        composition: whose plugins' hooks are timed.
        hooks: those that are asked for from now on are timed as well.
        device: where the run is.

    Attributes:
        waited: seconds that the run has waited for batches.
        samples: how many samples this process has got.
        steps: how many batches.
        seconds: by plugin and hook, what its calls have taken: those in the step of steps that were looked at, and
            all of the others.
        grown: by plugin and hook, bytes of the device's memory that were taken while it ran and kept.
    """

    def __init__(self, composition: Composition, hooks: Hooks, device: torch.device) -> None:
        self._composition, self._device = composition, device
        self._running = False
        self._due: tuple[int, Callable[[], None]] | None = None
        self._plain = composition.hooks
        self.waited, self.samples, self.steps = 0.0, 0, 0
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.grown: defaultdict[tuple[str, str], int] = defaultdict(int)
        hooks.around = self.around

    def read(self, stream: Iterable[Batch], done: int) -> Iterator[Batch]:
        """Yield the batches of ``stream``, which goes on after step ``done``, and measure how long each was waited for."""
        batches = iter(stream)
        while True:
            done += 1
            if self._due is not None and self._due[0] <= done:
                (_, call), self._due = self._due, None
                call()
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - started
            self.samples += batch.id.shape[0]  # a tensor's len() is Python's
            self.steps += 1
            yield batch

    def before(self, step: int, call: Callable[[], None]) -> None:
        """Have ``call`` called before ``step``, from 1, begins; or the next one, where that has begun. One at a time."""
        self._due = (step, call)

    def start(self) -> None:
        """Time the plugins' hooks from here on."""
        self._running = True
        self._plain = self._composition.hooks
        timed = self._plain.wrapped(self.around)
        prepares = [(owner, self.around(owner, "prepare_batch", function)) for owner, function in self._plain.prepares]
        self._composition.hooks = attrs.evolve(timed, prepares=prepares)

    def stop(self) -> None:
        """Put the plain hooks back."""
        self._running = False
        self._composition.hooks = self._plain

    def around(self, owner: Named, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, which is the ``hook`` of ``owner``, timed where that is a plugin's and the clock runs."""
        if not isinstance(owner, Plugin):
            return function
        always, name = hook not in IN_THE_STEP, owner.name

        def call(*arguments: Any) -> Any:
            if not (self._running or always):
                return function(*arguments)
            with self.timing(name, hook):
                return function(*arguments)

        return call

    @contextmanager
    def timing(self, name: str, hook: str) -> Iterator[None]:
        """Count the time of the block, and the memory that it keeps, as the ``hook`` of ``name``; a range for profilers."""
        memory, started = self._allocated(), self.now()
        with record_function(f"{name}.{hook}"):
            yield
        self.seconds[name, hook] += self.now() - started
        self.grown[name, hook] += self._allocated() - memory

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0
