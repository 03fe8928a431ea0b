"""One step that is looked at: what is attached to it, measured in it, and taken off again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from stillhouse import Run, Step
from stillhouse.distributed import processes as parallel
from stillhouse.loop.phases import Phase
from stillhouse.training.clock import Clock
from stillhouse.training.output_metrics import OutputMetrics
from stillhouse_watcher.album import Album
from stillhouse_watcher.costs import Costs
from stillhouse_watcher.gradients import find_parameters, keeping_buffers, measure_gradients
from stillhouse_watcher.layers import copy_weights, group_layers, measure_updates
from stillhouse_watcher.links import measure_links
from stillhouse_watcher.matrices import measure_matrices

__all__ = ["Look"]

Figures = dict[str, Tensor | float]


class Look:
    """Looks at steps of a run, one after the other: :meth:`begin` before one, :meth:`end` at its end.

    Args:
        run: its events are listened to in these steps, and in no other.
        clock: times the plugins' hooks meanwhile.
        costs: adds up what was timed.
        album: keeps what is to be shown at the run's end; None: nothing is.
        gradients: whether the terms' own gradients are taken.
    """

    def __init__(self, run: Run, clock: Clock, costs: Costs, album: Album | None, *, gradients: bool) -> None:
        self._run, self._clock, self._costs, self._gradients = run, clock, costs, gradients
        self._album = album
        self._groups = group_layers(run.student) if find_parameters(run.student) else {}
        self._in_one_piece = run.recipe.run.accumulate == 1
        self._times_models = run.recipe.speed.compile == "none"  # hooks would have it compiled anew
        self._removers: list[Callable[[], None]] = []
        self._marks: dict[str, float] = {}
        self._before: dict[str, list[Tensor]] = {}
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._by_term: dict[str, float] = {}
        self._found: Figures = {}
        self._spectra: dict[str, Tensor] = {}
        self.is_on = False
        self.seconds = 0.0
        """What the last look has taken itself, the step not counted."""
        self.reason = ""
        """Why gradients are not taken, where they cannot be."""

    def begin(self) -> None:
        """Listen to the step that comes."""
        self._found, self._spectra, self._by_term, self.seconds = {}, {}, {}, 0.0
        self._marks.clear()
        self._parts.clear()
        with self._measured():
            self._costs.begin()
            run, attach = self._run, self._run.trainer.add_event_handler
            for event, handler in (
                (Events.ITERATION_STARTED, self._start),
                (Phase.LOSSES_COMPUTED, self._at_losses),
                (Phase.BACKWARD_COMPLETED, self._at_gradients),
                (Phase.OPTIMIZER_STEPPED, self._at_weights),
            ):
                self._removers.append(attach(event, handler).remove)
            if self._times_models:
                for name, model in {"student": run.student, **run.all_teachers}.items():
                    self._time(model, "student" if name == "student" else "teacher")
            self._clock.start()
        self.is_on = True

    def end(self, step: Step) -> Figures:
        """Stop listening; what was found, by tag. Nothing of it has been waited for."""
        self.is_on = False
        with self._measured():
            self._clock.stop()
            for remove in self._removers:
                remove()
            self._removers.clear()
            found = dict(self._found)
            found |= self._measure_shares(step)
            if self._in_one_piece:
                found |= self._costs.add(self._parts, self._by_term)
            self._before = {}
            if self._album is not None:
                self._album.take_in(step, self._spectra)
        return found

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Count the block as the look's own time."""
        started = self._clock.now()
        yield
        self.seconds += self._clock.now() - started

    def _time(self, model: nn.Module, name: str) -> None:
        """Time the model's own calls."""
        started: list[float] = []

        def leave(*_arguments: Any) -> None:
            if started:
                self._parts[name] += self._clock.now() - started.pop()

        before = model.register_forward_pre_hook(lambda *_arguments: started.append(self._clock.now()))
        self._removers += [before.remove, model.register_forward_hook(leave).remove]

    def _start(self) -> None:
        self._marks["start"] = self._clock.now()

    def _at_losses(self, engine: Any) -> None:
        if "losses" in self._marks:
            return  # a later part of the batch
        step: Step = engine.state.step
        reached = self._clock.now()
        with self._measured():
            if self._gradients:
                self._measure_gradients(step)
            self._add(measure_links(step.links))
            if self._in_one_piece:
                self._found |= self._measure_batch(step)
        self._marks["losses"] = self._clock.now()
        self._parts["step"] += reached - self._marks.get("start", reached)

    def _measure_gradients(self, step: Step) -> None:
        parameters = find_parameters(self._run.student)
        if not parameters:
            return
        done, by_term, found = self._clock.now(), {}, {}
        try:
            with keeping_buffers(self._run.student):
                for name, norm, cosine in measure_gradients(step.losses, step.weights, parameters):
                    now = self._clock.now()
                    by_term[name], done = now - done, now
                    found[f"gradient_norm/{name}"] = norm
                    if cosine is not None:
                        found[f"gradient_cosine/{name}"] = cosine
        except RuntimeError as error:  # reentrant checkpoints, compiled graphs that keep nothing, memory
            self.reason = str(error).splitlines()[0]
        # In several processes all of them log the same figures.
        self.reason = next(filter(None, parallel.gather_objects(self.reason)), "")
        if self.reason:
            self._gradients = False
            return
        self._by_term = by_term
        self._found |= found

    def _measure_batch(self, step: Step) -> Figures:
        """The task's metrics of the batch at hand, as ``train/METRIC``: of a task whose answers look alike in both modes."""
        run = self._run
        changed = any(getattr(plugin, "changes", ()) for plugin in run.plugins) or run.recipe.data.batch_transforms
        if changed or not run.task.one_output or parallel.is_distributed():
            return {}
        metrics = OutputMetrics(run.task.metrics(run.data))
        metrics.take_in(step.student.output, step.targets, step.inputs)
        return {f"train/{name}": value for name, value in metrics.compute().items()}

    def _at_gradients(self) -> None:
        now = self._clock.now()
        self._parts["backward"] += now - self._marks["losses"]
        with self._measured():
            self._before = copy_weights(self._groups)
        self._marks["gradients"] = self._clock.now()

    def _at_weights(self) -> None:
        now = self._clock.now()
        self._parts["optimizer"] += now - self._marks["gradients"]
        self._parts["step"] += self._parts["backward"] + self._parts["optimizer"]
        with self._measured():
            self._found |= measure_updates(self._groups, self._before)
            self._add(measure_matrices(self._run.composition.modules_of))

    def _add(self, measured: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        """Take in figures and singular values."""
        self._found |= measured[0]
        self._spectra |= measured[1]

    def _measure_shares(self, step: Step) -> Figures:
        """How much of the total each term's size is, in percent."""
        sizes = {name: (value.detach() * step.weights[name]).abs() for name, value in step.losses.items()}
        whole = torch.stack(list(sizes.values())).sum().clamp_min(1e-30)
        return {f"loss_share_percent/{name}": 100 * size / whole for name, size in sizes.items()}
