"""A profile of some steps: a trace with a range for each plugin and hook, where their time goes, and what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
from ignite.engine import Events
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from stillhouse.errors import StillhouseError, first_line
from stillhouse.loop.phases import Phase
from stillhouse.training.clock import IN_THE_STEP
from stillhouse.training.session import Training

__all__ = ["Item", "Profiler"]

FIRST = 3
"""Steps before it begins: the engine looks at the hooks in them itself, and kernels are chosen."""

_ADVICE = {
    "waiting for data": "raise data.workers and data.prefetch, or keep small samples in memory with data.cache",
    "student": "try run.precision = 'bfloat16', speed.channels_last and speed.compile = 'student' on a GPU; else a smaller student",
    "teacher": "put `cache` into the list, where it sees no random augmentation; or speed.teacher_precision = 'bfloat16'",
    "backward": "try run.precision = 'bfloat16' and speed.compile = 'student'; it follows from the student and the loss terms",
    "optimizer": "an optimizer with fewer kernels (fused = true where torch has it), or a larger batch: its time does not depend on that",
    "the rest": "it is the engine's and Python's: a larger batch has fewer steps",
}


@attrs.frozen
class Item:
    """One part of a step.

    Attributes:
        name: ``student``, ``teacher``, ``backward``, ..., or ``PLUGIN.HOOK``.
        ms: milliseconds of a step.
        share: of the step's time, 0 to 1.
    """

    name: str
    ms: float
    share: float


class Profiler:
    """Profiles ``steps`` steps of a run, from the fourth on; made before :meth:`Training.fit`.

    Args:
        training: the run, which has a folder and is not watched: a look in the midst of it would be part of the profile.
        steps: how many.

    Attributes:
        path: where the trace is.

    Raises:
        StillhouseError: fewer than one step, or more than the run has after its first three; a step compiled as a whole.
    """

    def __init__(self, training: Training, steps: int) -> None:
        run = training.run
        most = run.total_steps - FIRST
        if not 1 <= steps <= most:
            raise StillhouseError(
                f"must be from 1 to {most}, got {steps}",
                where="--profile",
                hint=f"the run has {run.total_steps} steps, and the first {FIRST} are not profiled",
            )
        if run.recipe.speed.compile == "step":
            what = "a step that is compiled as a whole has no hooks to be timed"
            raise StillhouseError(what, where="--profile", hint="--set speed.compile=both")
        assert run.folder is not None  # the command's runs have one
        self.path: Path = run.folder / "profile.json.gz"
        self._run, self._clock, self._steps = run, training.clock, steps
        self._marks: dict[str, float] = {}
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._left = steps
        self._removers: list[Callable[[], None]] = []
        self._stack = ExitStack()
        run.trainer.add_event_handler(Events.STARTED, self._wait)

    def items(self) -> list[Item]:
        """The parts of a step, the largest first; empty where the run ended before the profile did."""
        if self._left:
            return []
        whole = self._parts["step"] + self._parts["waiting for data"]
        found = {name: value for name, value in self._parts.items() if name != "step"}
        found["optimizer"] -= self._clock_of("optimizer_stepped")
        found |= {f"{p}.{hook}": s for (p, hook), s in self._clock.seconds.items() if hook in IN_THE_STEP}
        found["the rest"] = max(0.0, whole - sum(found.values()))
        made = [Item(name, value / self._steps * 1e3, value / whole) for name, value in found.items() if value > 0.0]
        return sorted(made, key=lambda item: -item.ms)

    @staticmethod
    def advise(item: Item) -> str:
        """What to do about ``item``."""
        if item.name in _ADVICE:
            return _ADVICE[item.name]
        plugin, _, hook = item.name.rpartition(".")
        return f"see what {plugin!r} does in its hook {hook}: its page says what it costs, and which option costs less"

    def _clock_of(self, hook: str) -> float:
        return sum(value for (_, name), value in self._clock.seconds.items() if name == hook)

    def _wait(self) -> None:
        first = self._run.trainer.state.iteration + FIRST
        self._clock.before(first + 1, self._begin)

    def _begin(self) -> None:
        attach, clock = self._run.trainer.add_event_handler, self._clock
        activities = [ProfilerActivity.CPU]
        if self._run.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile: Any = self._stack.enter_context(profile(activities=activities))
        clock.start()
        self._marks["waited"] = clock.waited
        handlers = {
            Events.ITERATION_STARTED: lambda: self._mark("start"),
            Phase.LOSSES_COMPUTED: lambda: self._mark("losses"),
            Phase.BACKWARD_COMPLETED: lambda: self._mark("gradients", "backward", "losses"),
            Phase.OPTIMIZER_STEPPED: lambda: self._mark("moved", "optimizer", "gradients"),
            Events.ITERATION_COMPLETED: self._end_step,
        }
        self._removers = [attach(event, handler).remove for event, handler in handlers.items()]
        if self._run.recipe.speed.compile == "none":
            for name, model in {"student": self._run.student, **self._run.all_teachers}.items():
                self._time(model, "student" if name == "student" else "teacher")

    def _mark(self, name: str, part: str = "", since: str = "") -> None:
        self._marks[name] = self._clock.now()
        if part:
            self._parts[part] += self._marks[name] - self._marks[since]

    def _time(self, model: nn.Module, name: str) -> None:
        """Time the calls of ``model``, as a range of their own."""
        calls: list[tuple[ExitStack, float]] = []

        def enter(*_arguments: Any) -> None:
            opened = ExitStack()
            opened.enter_context(record_function(f"model.{name}"))
            calls.append((opened, self._clock.now()))

        def leave(*_arguments: Any) -> None:
            opened, started = calls.pop()
            self._parts[name] += self._clock.now() - started
            opened.close()

        self._removers += [
            model.register_forward_pre_hook(enter).remove,
            model.register_forward_hook(leave).remove,
        ]

    def _end_step(self) -> None:
        self._mark("end", "step", "start")
        self._left -= 1
        if self._left:
            return
        self._parts["waiting for data"] = self._clock.waited - self._marks["waited"]
        self._clock.stop()
        for remove in self._removers:
            remove()
        self._stack.close()
        try:
            self._profile.export_chrome_trace(str(self.path))
        except OSError as error:
            raise StillhouseError(
                f"the profile cannot be written: {first_line(error)}", where=str(self.path)
            ) from error
