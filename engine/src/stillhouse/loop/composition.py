"""Composition: the module that turns a batch into losses, with student, teacher and the plugins' modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.contract.layers import Which, match_layers, match_names
from stillhouse.contract.outputs import find_reader
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Link, LinkSpec, Side, Step
from stillhouse.contract.task import Task
from stillhouse.distributed.fsdp import local
from stillhouse.errors import StillhouseError
from stillhouse.loop.taps import Taps
from stillhouse.registry.hooks import Call, Hooks, emit
from stillhouse.registry.order import Active
from stillhouse.schedule import Schedule

__all__ = ["Announcer", "Composition", "note_place", "place_of", "refuse_shared"]


class Announcer:
    """Calls the hooks of a phase, then fires its event if somebody has attached to it.

    Firing costs some 5 microseconds and a call nearly one, so the step looks first: ``if told.calls or
    told.handlers.get(told.event): told(step)``.

    Attributes:
        hook: the phase's name, as the hook has it.
        calls: the implementations of plugins and observers, which take the step.
        handlers: ignite's table of handlers. It has no public way to ask whether an event has any.
        event: the event's name. An event equals its name, and looking the name up calls no Python code as long as
            nobody has attached to the event.
    """

    __slots__ = ("_fire", "calls", "event", "handlers", "hook")

    def __init__(
        self, hook: str, calls: list[Call], handlers: Mapping[Any, Any], fire: Callable[[], None] | None
    ) -> None:
        self.hook, self.calls, self.handlers, self.event = hook, calls, handlers, hook.upper()
        self._fire = fire

    def __call__(self, step: Step) -> None:
        """Announce the phase."""
        emit(self.calls, self.hook, lambda: place_of(step), step)
        if self._fire is not None and self.handlers.get(self.event):
            self._fire()


def note_place(error: Exception, plugin: Named, hook: str, step: Step) -> None:
    """Have ``error`` say where it came from: plugin, hook and step."""
    error.add_note(f"in plugin {plugin.name!r}, hook {hook!r}, {place_of(step)}")


def place_of(step: Step) -> str:
    """Where in the run ``step`` is, for a message."""
    return f"epoch {step.epoch + 1}, step {step.iteration + 1}"


class Composition(nn.Module):
    """Student, plugin modules and frozen teacher in one forward pass.

    Parameters, buffers and the state dict are the student's (``student.``) and the plugins' (``plugins.plugin_NAME.``).
    The teacher is no submodule: it is neither trained, counted, wrapped nor saved.

    Args:
        student: the model that is trained.
        teacher: the frozen model, or None.
        task: what gives the task's loss.
        actives: the plugins in order.
        hooks: their resolved hooks.
        taps: dotted paths to read, by model.
        total_steps: the run's optimizer steps, which weight schedules are fractions of.
        precision: dtype of the models' forward passes; anything but float32 runs them under autocast.
        teacher_precision: the teacher's; None: the same.
        channels_last: have image inputs with the channels last in memory.
        steps_per_epoch: of the run, for schedules that count epochs.

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
        teacher_precision: torch.dtype | None = None,
        channels_last: bool = False,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__()
        if teacher is not None:
            refuse_shared(student, teacher)
            teacher.requires_grad_(False).eval()
        if channels_last:
            for model in (student, teacher):
                if model is not None:
                    model.to(memory_format=torch.channels_last)
        self.student = student
        self.plugins = nn.ModuleDict()
        # In tuples and plain dicts nn.Module does not take a module for its own. The teacher must not be; for the others
        # it spares each step the search through nn.Module's tables.
        self._teacher = (teacher,)
        self._student = (student,)
        self._gone: list[str] = []
        self.modules_of: dict[str, nn.Module] = {}
        """What each plugin built, by the plugin's name."""
        self._task = task
        self._total_steps = total_steps
        self._precisions: dict[Which, torch.dtype] = {"student": precision, "teacher": teacher_precision or precision}
        self._autocasts: dict[Which, bool] = {w: p is not torch.float32 for w, p in self._precisions.items()}
        self.channels_last = channels_last
        """Whether a step's image inputs are laid out with the channels last in memory."""
        self._device_type = next((p.device.type for p in student.parameters()), "cpu")
        self._readers: dict[Which, Callable[[Any], Any] | None] = {"student": None, "teacher": None}
        own_call = type(task).call is not Task.call
        self._plain: dict[Which, bool] = {w: not (own_call or self._autocasts[w]) for w in self._precisions}
        self._taps: dict[Which, Taps] = {"student": Taps(student, "student", taps.get("student", ()))}
        if teacher is not None:
            self._taps["teacher"] = Taps(teacher, "teacher", taps.get("teacher", ()))
        self._student_taps = self._taps["student"]
        self._teacher_taps = self._taps.get("teacher", self._student_taps)
        self._link_specs: list[tuple[str, LinkSpec]] = []
        self.matched: dict[str, dict[str, list[str]]] = defaultdict(dict)
        """What :meth:`match` found before; a step looks here first."""
        self._forward_completed = self._losses_computed = Announcer("", [], {}, None)
        self._transforms = hooks.calls("transform")
        self._terms = [
            (plugin, plugin.name, function, _weight_of(plugin, total_steps, steps_per_epoch))
            for plugin, function in hooks.calls("losses")
        ]
        needs = any("teacher" in a.plugin.requires for a in actives) or bool(taps.get("teacher"))
        own = self._run_teacher if teacher is not None and needs else _no_teacher
        self._teacher_forward = hooks.teacher_forward(own)
        self.reads_teacher = needs or self.runs_teacher
        """Whether some plugin asks for the teacher, before the run or in its steps."""

    @property
    def terms_switch_off(self) -> bool:
        """Whether some loss term has a schedule and may be left out of a step."""
        return any(isinstance(weight, Schedule) for _, _, _, weight in self._terms)

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return self._teacher[0]

    @property
    def runs_teacher(self) -> bool:
        """Whether a step calls the teacher at all: some plugin reads it, or gives its features itself."""
        return self._teacher_forward is not _no_teacher

    def read_output(self, which: Which, output: Any) -> Any:
        """Settle, from one ``output`` of a model, how its outputs are read from now on, and read this one.

        Raises:
            StillhouseError: what the model returns has no output of interest that could be told.
        """
        read = self._readers[which] = find_reader(output, which)
        if read is None:
            return output
        self._plain[which] = False
        return read(output)

    def announce_with(self, forward_completed: Announcer, losses_computed: Announcer) -> None:
        """Announce the two phases that lie inside :meth:`forward` with these."""
        self._forward_completed, self._losses_computed = forward_completed, losses_computed

    def add_module_of(self, plugin: Plugin, module: nn.Module) -> None:
        """Take in what ``plugin``'s build returned. The prefix keeps a plugin named ``keys`` from hiding a method."""
        self.plugins[f"plugin_{plugin.name}"] = module
        self.modules_of[plugin.name] = module

    def plugin_module(self, plugin: Plugin | str) -> nn.Module:
        """What the plugin (or the plugin of that name) built.

        Raises:
            KeyError: it built nothing.
        """
        return self.modules_of[plugin if isinstance(plugin, str) else plugin.name]

    def add_links(self, plugin: Plugin, specs: Sequence[LinkSpec]) -> list[str]:
        """Take in what ``plugin`` links; the names under which the run knows them."""
        names = []
        for spec in specs:
            name = f"{plugin.name}/{spec.name}"
            if any(name == known for known, _ in self._link_specs):
                raise StillhouseError(f"makes two links called {spec.name!r}", hint="give one of them a name")
            for model, layer in (("student", spec.student), ("teacher", spec.teacher)):
                if model not in self._taps or layer not in self._taps[model].layers:
                    raise StillhouseError(
                        f"the link {spec.name!r} reads the {model}'s layer {layer!r}, which no tap reads",
                        hint="name it in add_taps",
                    )
            self._link_specs.append((name, spec))
            names.append(name)
        self.matched.clear()
        return names

    def match(self, what: str, pattern: str) -> list[str]:
        """Names by glob, in their own order, remembered.

        Args:
            what: ``links``; ``links of`` a plugin, whose name is then ``pattern``; ``student`` or ``teacher`` for the
                tapped layers of that model.
            pattern: a path or glob.
        """
        links = [name for name, _ in self._link_specs]
        if what == "links":
            found = match_names(pattern, links)
        elif what == "links of":
            found = [name for name in links if name.startswith(f"{pattern}/")]
        else:
            which: Which = "student" if what == "student" else "teacher"
            tapped = self._taps[which].layers
            module = self.student if which == "student" else self.teacher
            names = self._gone if module is None else [name for name, _ in module.named_modules()]
            found = [layer for layer in match_layers(names, which, pattern) if layer in tapped]
        self.matched[what][pattern] = found
        return found

    def taps(self, model: Which) -> Taps:
        """The taps of ``model``."""
        return self._taps[model]

    def all_taps(self) -> list[Taps]:
        """The student's taps, and the teacher's where there is one."""
        return list(self._taps.values())

    def drop_teacher(self, hooks: Hooks, *, served: bool) -> None:
        """Let go of the teacher. ``served``: plugins' ``teacher_forward`` gives what it gave, from now on."""
        teacher = self.teacher
        assert teacher is not None  # it goes once
        self._gone = [name for name, _ in teacher.named_modules()]
        self._teacher_taps.remove()
        self._teacher = (None,)
        self._teacher_forward = hooks.teacher_forward(_teacher_is_gone if served else _no_teacher)

    def remove_taps(self) -> None:
        """Take the taps off both models: after training they are plain modules again."""
        for taps in self._taps.values():
            taps.remove()

    def _call(self, model: nn.Module, which: Which, step: Step) -> Any:
        """The ways to call a model that differ from ``model(inputs)``: autocast, a task's own call, a dict returned."""
        targets = step.targets if which == "student" else None
        with torch.autocast(self._device_type, dtype=self._precisions[which], enabled=self._autocasts[which]):
            output = self._task.call(model, step.inputs, targets)
        read = self._readers[which]
        return output if read is None else read(output)

    def run_student(self, step: Step) -> None:
        """Call the student and take its tapped features."""
        student = self._student[0]
        output = student(step.inputs) if self._plain["student"] else self._call(student, "student", step)
        step.student = Side(output, self._student_taps.take())

    def _run_teacher(self, step: Step) -> bool:
        # no_grad and not inference_mode: a trainable projection of the teacher's features saves them for backward.
        with torch.no_grad():
            teacher = self._teacher[0]
            assert teacher is not None  # this forward is chosen only with one
            output = teacher(step.inputs) if self._plain["teacher"] else self._call(teacher, "teacher", step)
        step.teacher = Side(output, self._teacher_taps.take())
        return True

    def run_teacher(self, step: Step) -> None:
        """Call the teacher, or whatever plugins put in its place."""
        self._teacher_forward(step)

    def read_links(self, step: Step, specs: Sequence[tuple[str, LinkSpec]] | None = None) -> None:
        """Make the links from the features, before any transform."""
        for name, spec in self._link_specs if specs is None else specs:
            assert step.teacher is not None
            student, teacher = step.student.features[spec.student], step.teacher.features[spec.teacher]
            if spec.read is not None:
                student, teacher = spec.read(student, teacher)
            step.links[name] = Link(name, student, teacher)

    def forward(self, step: Step) -> Tensor:
        """Fill ``step`` and return its total loss, a scalar on the device."""
        self.run_student(step)
        self._teacher_forward(step)
        self.read_links(step)
        told = self._forward_completed
        if told.calls or told.handlers.get(told.event):
            told(step)
        plugin, hook = None, "transform"
        try:
            for plugin, function in self._transforms:  # noqa: B007 - the except clause names it
                function(step)
            plugin, hook = None, "losses"
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
                note_place(error, plugin, hook, step)
            raise
        step.total = total
        told = self._losses_computed
        if told.calls or told.handlers.get(told.event):
            told(step)
        return total


def _weight_of(plugin: Named, total_steps: int, steps_per_epoch: int) -> float | Schedule:
    weight: Any = plugin.weight  # type: ignore[attr-defined]  # @plugin checks that a plugin with losses has it
    if not isinstance(weight, Schedule):
        return float(weight)
    try:
        return weight.in_steps(total_steps, steps_per_epoch)
    except StillhouseError as error:
        raise error.within(f"plugin {plugin.name!r}: weight") from None


def _no_teacher(step: Step) -> None:
    """In a run whose plugins read no teacher."""


def _teacher_is_gone(step: Step) -> None:
    raise StillhouseError("the teacher has left memory, and no plugin's teacher_forward has answered for it")


def refuse_shared(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares a module or a tensor with the student: freezing it would freeze the student.

    Raises:
        StillhouseError: it names the first place shared.
    """
    modules = {id(m): name for name, m in student.named_modules()}
    for name, module in teacher.named_modules():
        if id(module) in modules:
            raise StillhouseError(
                f"student and teacher share the module {modules[id(module)] or 'itself'!r} (teacher: {name or 'itself'!r})",
                where="teacher",
                hint="give the teacher a copy: copy.deepcopy(module)",
            )
    tensors = {}
    for name, tensor in (*student.named_parameters(), *student.named_buffers()):
        tensor = local(tensor)
        if tensor.numel():
            tensors[tensor.untyped_storage().data_ptr()] = name
    for name, tensor in (*teacher.named_parameters(), *teacher.named_buffers()):
        tensor = local(tensor)
        if tensor.numel() and tensor.untyped_storage().data_ptr() in tensors:
            raise StillhouseError(
                f"student and teacher share the tensor {tensors[tensor.untyped_storage().data_ptr()]!r} (teacher: {name!r})",
                where="teacher",
                hint="give the teacher a copy: copy.deepcopy(module)",
            )
