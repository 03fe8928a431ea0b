"""The walk over the plugins with one small batch, before anything is trained or written.

Taps are attached, a batch of two goes through student and teacher, then plugin by plugin: build, add_links, transform.
So each ``build`` sees the shapes that really reach it, and what does not fit is named by plugin, link and shape.
Afterwards every buffer, mode and generator is as it was before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from stillhouse import seeds as rng
from stillhouse.assembly.adaptation import adapt_student, release
from stillhouse.assembly.failures import is_out_of_memory
from stillhouse.assembly.snapshot import Snapshot, unchanged
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.layers import Which, split_layer
from stillhouse.contract.step import LinkSpec, Side, Step, Tap
from stillhouse.distributed.fsdp import reshard
from stillhouse.errors import Fault, StillhouseError, first_line, raise_faults
from stillhouse.layout import format_shape
from stillhouse.loop.composition import Composition
from stillhouse.loop.step import new_step
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import Active

__all__ = ["Stage", "Walk", "assemble"]

_UNFIT = (RuntimeError, ValueError, TypeError, AssertionError)
"""What models raise on inputs that do not suit them; torch and timm assert."""

Shapes = dict[str, tuple[str, str]]


@attrs.frozen
class Stage:
    """One plugin's part of the walk.

    Attributes:
        plugin: its name; ``(models)`` for the layers as they were read.
        links: ``{link: (student's shape, teacher's shape)}`` after its transform.
        parameters: trainable numbers its module has.
        terms: its loss terms with their value on the walk's batch.
    """

    plugin: str
    links: Shapes
    parameters: int
    terms: dict[str, float]


@attrs.frozen(eq=False)
class Walk:
    """The composition and what the walk over the plugins saw.

    Attributes:
        composition: ready to train.
        hooks: the plugins' resolved hooks.
        taps: ``{"student": {layer: shape}, "teacher": {layer: shape}}``, and further teachers' by their names.
        stages: one for each plugin, in order.
        task_loss: the task's loss on the walk's batch.
        teacher_parameters: how many numbers each teacher has, by name.
        teacher_gone: whether the one called ``teacher`` has left memory: see :meth:`stillhouse.contract.assembly.Assembly.release_teacher`.
    """

    composition: Composition
    hooks: Hooks
    taps: dict[str, dict[str, str]]
    stages: list[Stage]
    task_loss: float
    teacher_parameters: dict[str, int] = attrs.field(factory=dict)
    teacher_gone: bool = False


def assemble(
    assembly: Assembly, actives: Sequence[Active], batch: Batch, precision: torch.dtype = torch.float32
) -> Walk:
    """Walk over the plugins and make the composition.

    Args:
        assembly: with the plugins of ``actives``; what they adapt and build goes into it.
        actives: the plugins, ordered.
        batch: at least two samples, on the CPU.
        precision: dtype of the models' forward passes.

    Raises:
        StillhouseError: with all faults of a stage: the layers, then the shapes.
    """
    hooks = Hooks(actives)
    adapt_student(assembly, hooks)
    speed = assembly.recipe.speed
    composition = Composition(
        assembly.student,
        assembly.teacher,
        assembly.task,
        actives,
        hooks,
        _find_taps(assembly, hooks),
        assembly.total_steps,
        precision,
        device=assembly.device,
        teacher_precision=None if speed.teacher_precision == "same" else getattr(torch, speed.teacher_precision),
        channels_last=speed.channels_last,
        steps_per_epoch=assembly.steps_per_epoch,
        teachers=assembly.teachers,
    )
    try:
        return _walk_over(assembly, composition, hooks, actives, batch)
    except BaseException:
        composition.remove_taps()  # the models may be the caller's
        raise


def _walk_over(
    assembly: Assembly, composition: Composition, hooks: Hooks, actives: Sequence[Active], batch: Batch
) -> Walk:
    """The walk itself; the taps are on the models."""
    step = new_step(batch, composition)
    teachers = assembly.all_teachers
    with rng.preserve_state(), unchanged(assembly.student, *teachers.values()) as snapshot, torch.no_grad():
        rng.seed_everything(rng.derive(assembly.seed, "assembly"))
        assembly.student.train()
        task_loss = _first_forward(assembly, composition, step)
        features = {"student": dict(step.student.features), "teacher": {}}
        features |= {name: dict(side.features) for name, side in _teachers_of(step)}
        taps = {model: {layer: format_shape(x) for layer, x in tapped.items()} for model, tapped in features.items()}
        stages = _walk(assembly, composition, hooks, actives, step, features, snapshot)
    assembly.conceal()
    step.clear()
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in teachers.items()}
    for model in (assembly.student, *teachers.values()):
        reshard(model)
    gone = release(assembly, composition, hooks, actives)
    return Walk(composition, hooks, taps, stages, task_loss, sizes, gone)


def _teachers_of(step: Step) -> list[tuple[str, Side]]:
    """The teachers' sides, by name; none in a run that reads no teacher."""
    return [] if step.teacher is None else [("teacher", step.teacher), *step.teachers.items()]


def _find_taps(assembly: Assembly, hooks: Hooks) -> dict[Which, list[str]]:
    layers: dict[Which, list[str]] = {"student": [], "teacher": [], **{name: [] for name in assembly.teachers}}
    faults: list[Fault] = []
    for plugin, add_taps in hooks.calls("add_taps"):
        try:
            for tap in add_taps(assembly):
                if not isinstance(tap, Tap):
                    raise StillhouseError(f"add_taps gave {tap!r}", hint="Tap('student', 'layer4')")
                model, layer = split_layer(tap.model, tap.layer)
                found = assembly.layers(model, layer)  # refuses a model that the run does not have
                layers[model] += found
        except StillhouseError as error:
            faults += error.within(f"plugin {plugin.name!r}").faults
    raise_faults(faults)
    return layers


def _first_forward(assembly: Assembly, composition: Composition, step: Step) -> float:
    shape = format_shape(step.inputs)
    for model in composition.models.values():
        model.taps.watch()
    try:
        composition.run_student(step)
    except _UNFIT as error:
        raise _model_error("student", shape, error) from error
    assembly.task.check(step.student.output, step.targets, assembly.data)
    try:
        composition.run_teacher(step)
    except _UNFIT as error:
        raise _model_error("teacher", shape, error) from error
    faults = composition.models["student"].taps.check(step.student.features)
    for name, side in _teachers_of(step):
        faults += composition.models[name].taps.check(side.features)
    raise_faults(faults)
    loss = float(assembly.task.loss(step.student.output, step.targets))
    if not math.isfinite(loss):
        raise _not_finite(assembly, step, loss)
    return loss


def _not_finite(assembly: Assembly, step: Step, loss: float) -> StillhouseError:
    """Where a task's loss that is not finite on the first two samples comes from, as far as it can be told."""
    if isinstance(step.inputs, Tensor) and not bool(torch.isfinite(step.inputs).all()):
        ids = ", ".join(map(str, step.ids.tolist()))
        return StillhouseError(f"the inputs of the samples {ids} hold values that are not finite", where="data")
    output = step.student.output
    if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
        return StillhouseError("its output is not finite before anything is trained", where="student")
    return StillhouseError(f"the task's loss on the first samples is {loss}", where="task")


def _model_error(which: str, shape: str, error: Exception) -> StillhouseError:
    if isinstance(error, StillhouseError):
        return error
    if is_out_of_memory(error):
        raise error
    return StillhouseError(
        f"the {which} cannot take inputs of shape {shape}: {first_line(error)}",
        where=which,
        hint="see [data] channels and size, and the model's args",
    )


def _walk(
    assembly: Assembly,
    composition: Composition,
    hooks: Hooks,
    actives: Sequence[Active],
    step: Step,
    features: Mapping[str, Mapping[str, Tensor]],
    snapshot: Snapshot,
) -> list[Stage]:
    faults: list[Fault] = []
    calls = {name: {p.name: f for p, f in hooks.calls(name)} for name in ("build", "add_links", "transform", "losses")}
    shapes: dict[str, Shapes] = {}
    broken = False
    step.phase = "transform"
    for active in actives:
        plugin = active.plugin
        where = f"plugin {plugin.name!r}"
        assembly.show(features, dict(step.links))
        try:
            if plugin.name in calls["build"]:
                rng.seed_everything(rng.derive(assembly.seed, "build", plugin.name))
                with torch.enable_grad():
                    module = calls["build"][plugin.name](assembly)
                if module is not None:
                    if not isinstance(module, nn.Module):
                        raise StillhouseError(f"build gave {type(module).__name__}", hint="an nn.Module, or None")
                    module = module.to(assembly.device).train()
                    assembly.modules[plugin.name] = module
                    composition.add_module_of(plugin, module)
                    snapshot.add(module)
            if plugin.name in calls["add_links"]:
                specs = list(calls["add_links"][plugin.name](assembly))
                names = composition.links.add(plugin, specs)
                faults += _read(composition, step, where, list(zip(names, specs, strict=True)))
            if plugin.name in calls["transform"] and not broken:
                calls["transform"][plugin.name](step)
        except StillhouseError as error:
            faults += error.within(where).faults
            broken = True
        except Exception as error:
            error.add_note(f"in {where}, at assembly; links: {_shapes(step)}")
            raise
        shapes[plugin.name] = _shapes(step)
    raise_faults(faults)
    terms = _first_losses(calls["losses"], actives, step)
    return [Stage(a.name, shapes[a.name], _trainable(composition, a.name), terms.get(a.name, {})) for a in actives]


def _read(composition: Composition, step: Step, where: str, specs: list[tuple[str, LinkSpec]]) -> list[Fault]:
    faults: list[Fault] = []
    for name, spec in specs:
        try:
            composition.links.read(step, [(name, spec)])
        except StillhouseError as error:
            student, teacher = composition.links.features(step, name, spec)
            place = f"link {name!r}, student {format_shape(student)}, teacher {format_shape(teacher)}"
            faults += error.within(f"{where}: {place}").faults
    return faults


def _first_losses(calls: Mapping[str, Any], actives: Sequence[Active], step: Step) -> dict[str, dict[str, float]]:
    faults: list[Fault] = []
    found: dict[str, dict[str, float]] = {}
    step.phase = "losses"
    for active in actives:
        if active.name not in calls:
            continue
        where = f"plugin {active.name!r}"
        try:
            terms = calls[active.name](step)
            for term, value in _checked_terms(terms):
                found.setdefault(active.name, {})[f"{active.name}/{term}" if term else active.name] = float(value)
        except StillhouseError as error:
            faults += error.within(where).faults
        except Exception as error:
            error.add_note(f"in {where}, hook 'losses', at assembly; links: {_shapes(step)}")
            raise
    raise_faults(faults)
    return found


def _checked_terms(terms: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(terms, Mapping):
        raise StillhouseError(f"losses gave {type(terms).__name__}", hint='a dict of scalar tensors: {"": loss}')
    for term, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim:
            got = f"a tensor of shape {format_shape(value)}" if isinstance(value, Tensor) else type(value).__name__
            raise StillhouseError(f"the loss term {term!r} is {got}", hint="a scalar tensor, such as x.mean()")
        yield term, value


def _shapes(step: Step) -> Shapes:
    return {name: (format_shape(link.student), format_shape(link.teacher)) for name, link in step.links.items()}


def _trainable(composition: Composition, name: str) -> int:
    try:
        module = composition.plugin_module(name)
    except KeyError:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
