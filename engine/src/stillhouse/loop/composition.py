"""Composition: the module that turns a batch into losses, with student, teacher and the plugins' modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.contract.layers import Which
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Composed, Named
from stillhouse.contract.step import FORWARD_PHASES, Side, Step
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.loop.links import Links
from stillhouse.loop.phases import Emitter, note_place
from stillhouse.loop.tapped_model import TappedModel, refuse_shared
from stillhouse.nested import map_tensors
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import ENGINE_CAPABILITIES, Active
from stillhouse.schedule import Schedule

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
        StillhouseError: teacher and student share a module or a tensor, or the student is compiled already.
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
        for name, model in frozen.items():
            refuse_shared(student, model, name)
            model.requires_grad_(False).eval()
        if channels_last:
            for model in (student, *frozen.values()):
                model.to(memory_format=torch.channels_last)
        self.student = student
        self.plugins = nn.ModuleDict()
        self.modules_of: dict[str, nn.Module] = {}
        """What each plugin built, by the plugin's name."""
        self._task = task
        self._total_steps = total_steps
        self._device, self._channels_last = device, channels_last
        self._peers: dict[nn.Module, TappedModel] = {}
        self._forward_completed = self._losses_computed = Emitter()
        self._transforms = hooks.calls("transform")
        self._terms = [
            (plugin, plugin.name, function, _weight_of(plugin, total_steps, steps_per_epoch))
            for plugin, function in hooks.calls("losses")
        ]
        required = {need for a in actives for need in a.plugin.requires} & set(ENGINE_CAPABILITIES)
        needs = bool(required) or any(taps.get(name) for name in frozen)
        self._further = [name for name in frozen if name != "teacher"]
        self._teacher_forward = hooks.teacher_forward(self._run_teachers if frozen and needs else _no_teacher)
        self.reads_teacher = needs or self.runs_teacher
        """Whether some plugin asks for the teacher, before the run or in its steps."""
        self._teacher_is_live = "live teacher" in required
        # No modules of nn.Module's: the teacher must not be one, and a step is spared the search through its tables.
        self.models: dict[str, TappedModel] = {}
        """The student and the teachers, to be called."""
        try:
            for name, model in {"student": student, **frozen}.items():
                self.models[name] = TappedModel(
                    model,
                    name,
                    task,
                    taps.get(name, ()),
                    device=device,
                    precision=precision if name == "student" else teacher_precision or precision,
                    frozen=name != "student",
                )
        except StillhouseError:
            self.remove_taps()
            raise
        self._student = self.models["student"]
        self.links = Links(self.models)
        self.matched = self.links.matched

    @property
    def terms_switch_off(self) -> bool:
        """Whether some loss term has a schedule and may be left out of a step."""
        return any(isinstance(weight, Schedule) for _, _, _, weight in self._terms)

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return self.models["teacher"].model if "teacher" in self.models else None

    @property
    def runs_teacher(self) -> bool:
        """Whether a step calls the teacher at all: some plugin reads it, or gives its features itself."""
        return self._teacher_forward is not _no_teacher

    def announce_with(self, forward_completed: Emitter, losses_computed: Emitter) -> None:
        """Announce the two phases that lie inside :meth:`forward` with these."""
        self._forward_completed, self._losses_computed = forward_completed, losses_computed

    def add_module_of(self, plugin: Plugin, module: nn.Module) -> None:
        """Take in what ``plugin``'s build returned. The prefix keeps a plugin named ``keys`` from hiding a method."""
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
        step.student = self._student(step.inputs, step.targets)

    def run_teacher(self, step: Step) -> None:
        """Call the teachers, or whatever plugins put in their place."""
        self._teacher_forward(step)

    def _run_teachers(self, step: Step) -> None:
        """Call each teacher that no plugin has answered for."""
        if step.teacher is None:
            step.teacher = self.models["teacher"](step.inputs)
        for name in self._further:
            if name not in step.teachers:
                step.teachers[name] = self.models[name](step.inputs)

    def forward_again(self, step: Step, which: str | nn.Module, inputs: Any, targets: Any = None) -> Side:
        """Do what :meth:`stillhouse.contract.step.Step.forward` says."""
        if step.phase not in FORWARD_PHASES:
            raise StillhouseError(
                f"is called outside of {', '.join(FORWARD_PHASES)}",
                where="step.forward",
                hint="only what is computed there takes part in the backward pass",
            )
        model = self._peers.get(which) if isinstance(which, nn.Module) else self.models.get(which)
        if model is None:
            model = self._peer(which)
        if model.frozen and not self._teacher_is_live:
            raise StillhouseError(
                f"calls {model.name!r}, and no plugin requires a live teacher",
                where="step.forward",
                hint='requires = ("live teacher",)',
            )
        return model(*self.place(inputs, targets))

    def _peer(self, which: str | nn.Module) -> TappedModel:
        """The way to call a plugin's own module as the student is called."""
        if isinstance(which, str):
            raise StillhouseError(
                f"the run has no {which!r}", where="step.forward", hint=f"it has {', '.join(self.models)}"
            )
        if not any(which is part for own in self.modules_of.values() for part in own.modules()):
            raise StillhouseError(
                f"is given a {type(which).__name__} that no plugin's build returned",
                where="step.forward",
                hint=f"a model of the run by its name, {', '.join(map(repr, self.models))}, or a part of step.module(self)",
            )
        made = self._peers[which] = self._student.with_model(which)
        return made

    def forward(self, step: Step) -> Tensor:
        """Fill ``step`` and return its total loss, a scalar on the device."""
        self.run_student(step)
        self._teacher_forward(step)
        self.links.read(step)
        self._forward_completed.emit(step)
        plugin = None
        step.phase = "transform"
        try:
            for plugin, function in self._transforms:  # noqa: B007 - the except clause names it
                function(step)
            plugin, step.phase = None, "losses"
            total = self._task.loss(step.student.output, step.targets)
            losses, weights = step.losses, step.weights
            losses["task"], weights["task"] = total, 1.0
            share = step.share
            if share is not None:
                total = total * share[0]
            for plugin, owner, function, weight in self._terms:  # noqa: B007 - the except clause names it
                if isinstance(weight, Schedule):
                    weight = weight.at(step.iteration, self._total_steps)
                if weight == 0.0:
                    continue
                factor = weight if share is None else weight * share[1]
                for term, value in function(step).items():
                    name = f"{owner}/{term}" if term else owner
                    losses[name], weights[name] = value, weight
                    # Two kernels less, forward and backward, where the weight is the default.
                    total = total + (value if factor == 1.0 else factor * value)
        except Exception as error:
            if plugin is not None:
                note_place(error, plugin, step.phase, step)
            raise
        step.phase, step.total = "", total
        self._losses_computed.emit(step)
        return total


def _weight_of(plugin: Named, total_steps: int, steps_per_epoch: int) -> float | Schedule:
    weight: Any = plugin.weight  # type: ignore[attr-defined]  # @plugin checks that a plugin with losses has it
    if not isinstance(weight, Schedule):
        return float(weight)
    try:
        return weight.to_steps(total_steps, steps_per_epoch)
    except StillhouseError as error:
        raise error.within(f"plugin {plugin.name!r}: weight") from None


def _no_teacher(step: Step) -> None:
    """In a run whose plugins read no teacher."""
