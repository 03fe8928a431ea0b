"""Composition: the module that turns a batch into losses, with student, teacher and the plugins' modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from stillhouse.contract.layers import Which
from stillhouse.contract.modes import find_kept_in_eval
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Composed, Named
from stillhouse.contract.sealed import Teachers, put
from stillhouse.contract.step import Side, Step, seal_side
from stillhouse.contract.task import Task
from stillhouse.contract.turns import enter
from stillhouse.loop.links import Links
from stillhouse.loop.phases import Emitter, place_of
from stillhouse.loop.second_pass import SecondPass
from stillhouse.loop.step_hooks import StepHooks, resolve
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.loop.terms import Terms
from stillhouse.nested import map_tensors
from stillhouse.registry.hooks import Hooks, emit
from stillhouse.registry.order import ENGINE_CAPABILITIES, Active

__all__ = ["Composition"]


class Composition(Composed):
    """Student, plugin modules and frozen teachers in one forward pass.

    Parameters, buffers and the state dict are the student's (``student.``) and the plugins' (``plugins.plugin_NAME.``).
    A teacher is no submodule: it is neither trained, counted, wrapped nor saved.

    Args:
        student: the model that is trained.
        teacher: the frozen model, or None.
        task: what gives the task's loss.
        actives: the plugins in order.
        hooks: their resolved hooks.
        taps: dotted paths to read, by model.
        total_steps: the run's optimizer steps, which weight schedules are fractions of.
        precision: dtype of the models' forward passes; anything but float32 runs them under autocast.
        device: where the models are.
        teacher_precision: the teacher's; None: the same.
        channels_last: have image inputs with the channels last in memory.
        steps_per_epoch: of the run, for schedules that count epochs.
        teachers: further frozen models by name, beside ``teacher``.

    Raises:
        StillhouseError: a model whose layers are read is compiled already.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        task: Task,
        actives: Sequence[Active],
        hooks: Hooks,
        taps: Mapping[Which, Sequence[str]],
        total_steps: int,
        precision: torch.dtype = torch.float32,
        *,
        device: torch.device,
        teacher_precision: torch.dtype | None = None,
        channels_last: bool = False,
        steps_per_epoch: int = 1,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        frozen = {} if teacher is None else {"teacher": teacher, **(teachers or {})}
        for model in frozen.values():
            model.requires_grad_(False).eval()
        if channels_last:
            for model in (student, *frozen.values()):
                model.to(memory_format=torch.channels_last)
        self.student = student
        self.plugins = nn.ModuleDict()
        self.kept_in_eval = find_kept_in_eval(student)
        """Parts of the student and of the plugins' modules that no step puts into train mode."""
        self.modules_of: dict[str, nn.Module] = {}
        """What each plugin built, by the plugin's name."""
        self._device, self._channels_last = device, channels_last
        self.places = device.type != "cpu" or channels_last
        """Whether :meth:`place` has anything to do."""
        self._forward_completed = self.losses_computed = Emitter()
        self._changes = {a.name: a.plugin.changes for a in actives}
        self.terms = Terms(task, resolve(hooks, total_steps, steps_per_epoch), total_steps)
        """What gives the losses."""
        self.combiner = hooks.sole("combine_gradients")
        """The plugin that makes one gradient of the terms' own, and its hook; None: the total goes backward."""
        required = {need for a in actives for need in a.plugin.requires} & set(ENGINE_CAPABILITIES)
        needs = bool(required) or any(taps.get(name) for name in frozen)
        self._further = [name for name in frozen if name != "teacher"]
        self._own_teacher_forwards = (self._run_teachers, _no_teacher)
        self._teacher_precision = teacher_precision or precision
        self._teacher_forward = hooks.teacher_forward(self._run_teachers if frozen and needs else _no_teacher)
        self.reads_teacher = needs or self.runs_teacher
        """Whether some plugin asks for the teacher, before the run or in its steps."""
        # No modules of nn.Module's: the teacher must not be one, and a step is spared the search through its tables.
        self.models: dict[str, TappedModel] = {}
        """The student and the teachers, to be called."""
        try:
            for name, model in {"student": student, **frozen}.items():
                own = precision if name == "student" else self._teacher_precision
                self.models[name] = TappedModel(
                    model, name, task, taps.get(name, ()), device=device, precision=own, frozen=name != "student"
                )
        except BaseException:
            self.remove_taps()
            raise
        self._student = self.models["student"]
        self._second_pass = SecondPass(self.models, self.modules_of, teacher_is_live="live teacher" in required)
        self.links = Links(self.models)
        self.matched = self.links.matched

    @property
    def hooks(self) -> StepHooks:
        """The plugins' hooks inside a step; the walk and a run's first steps put watched ones in their place."""
        return self.terms.hooks

    @hooks.setter
    def hooks(self, hooks: StepHooks) -> None:
        self.terms.hooks = hooks

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return self.models["teacher"].model if "teacher" in self.models else None

    @property
    def runs_teacher(self) -> bool:
        """Whether a step calls the teacher at all: some plugin reads it, or gives its features itself."""
        return self._teacher_forward is not _no_teacher

    def train(self, mode: bool = True) -> Self:
        """Put student and plugins' modules into train mode, or eval mode; what was given frozen in eval mode stays so."""
        super().train(mode)
        for part in self.kept_in_eval:
            part.training = False  # not by train(), which a model may have overridden
        return self

    def announce_with(self, forward_completed: Emitter, losses_computed: Emitter) -> None:
        """Announce with these the phase that lies inside :meth:`forward`, and the one after it."""
        self._forward_completed, self.losses_computed = forward_completed, losses_computed

    def add_module_of(self, plugin: Plugin, module: nn.Module) -> None:
        """Take in what ``plugin``'s build returned. The prefix keeps a plugin named ``keys`` from hiding a method."""
        self.kept_in_eval += find_kept_in_eval(module)
        self.plugins[f"plugin_{plugin.name}"] = module
        self.modules_of[plugin.name] = module

    def plugin_module(self, plugin: Named | str) -> nn.Module:
        """What the plugin (or the plugin of that name) built.

        Raises:
            KeyError: it built nothing.
        """
        return self.modules_of[plugin if isinstance(plugin, str) else plugin.name]

    def match(self, what: str, pattern: str) -> list[str]:
        """What :meth:`stillhouse.loop.links.Links.match` says."""
        return self.links.match(what, pattern)

    def drop_teacher(self, hooks: Hooks, *, served: bool) -> None:
        """Let go of the teacher. ``served``: plugins' ``teacher_forward`` gives what it gave, from now on.

        Further teachers go with it, unless it is served.
        """
        self.models["teacher"].release()
        if not served:
            for name in self._further:
                self.models[name].release()
            self._teacher_forward = hooks.teacher_forward(_no_teacher)

    def remove_taps(self) -> None:
        """Take the taps off the models: they are plain modules again."""
        for model in self.models.values():
            model.taps.remove()

    def place(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """A batch's ``inputs`` and ``targets`` on the run's device, inputs with the channels last where so asked."""
        if self._device.type != "cpu":
            inputs, targets = map_tensors(lambda x: x.to(self._device, non_blocking=True), (inputs, targets))
        if self._channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    def run_student(self, step: Step) -> None:
        """Call the student and take its tapped features."""
        put(step, "student", self._student(step.inputs, step.targets))

    def run_teacher(self, step: Step) -> None:
        """Call the teachers, or whatever plugins put in their place."""
        if self._teacher_forward in self._own_teacher_forwards:
            self._teacher_forward(step)
            return
        enter(step, "teacher_forward", ("teacher",))
        put(step, "teachers", dict(step.teachers))  # open, for this hook
        precision = self._teacher_precision
        with (
            torch.no_grad(),
            torch.autocast(self._device.type, dtype=precision, enabled=precision is not torch.float32),
        ):
            self._teacher_forward(step)
        enter(step, "")
        put(step, "teachers", Teachers(step.teachers))
        for side in filter(None, (step.teacher, *step.teachers.values())):
            seal_side(side)

    def _run_teachers(self, step: Step) -> None:
        """Call each teacher that no plugin has answered for."""
        with torch.no_grad():  # once for all of them
            if step.teacher is None:
                put(step, "teacher", self.models["teacher"](step.inputs))
            for name in self._further:
                if name not in step.teachers:
                    dict.__setitem__(step.teachers, name, self.models[name](step.inputs))

    def compute_sample_losses(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """The task's losses by sample, computed once a step: see :meth:`stillhouse.contract.task.Task.loss_by_sample`."""
        if step.by_sample is None:
            put(step, "by_sample", self.terms.compute_by_sample(step))
        assert step.by_sample is not None  # it has just been put there
        return step.by_sample

    def forward_again(self, step: Step, which: str | nn.Module, inputs: Any, targets: Any = None) -> Side:
        """Do what :meth:`stillhouse.contract.step.Step.forward` says."""
        return self._second_pass.find(step, which)(*self.place(inputs, targets))

    def prepare(self, steps: Sequence[Step]) -> None:
        """Have plugins replace inputs, targets and ids of all parts of a batch, before the first goes forward."""
        for step in steps:
            for plugin, function in self.hooks.prepares:
                enter(step, "prepare_batch", self._changes[plugin.name])
                with torch.no_grad():
                    emit([(plugin, function)], "prepare_batch", partial(place_of, step), step)
            enter(step, "")

    def forward(self, step: Step) -> Tensor:
        """Fill ``step`` and return its total loss, a scalar on the device."""
        # Around a loop of somebody's own; the models have their precision.
        if torch.is_autocast_enabled(self._device.type):
            with torch.autocast(self._device.type, enabled=False):
                return self.forward(step)
        put(step, "student", self._student(step.inputs, step.targets))
        self.run_teacher(step)
        self.links.read(step)
        completed = self._forward_completed
        if completed.calls or completed.event in completed.handlers:
            completed.emit(step)
        transforms = self.terms.hooks.transforms
        if transforms:
            enter(step, "transform")
            emit(transforms, "transform", lambda: place_of(step), step)
        total = self.terms.add_up(step)
        put(step, "phase", "")
        put(step, "total", total)
        return total


def _no_teacher(step: Step) -> None:
    """In a run whose plugins read no teacher."""
