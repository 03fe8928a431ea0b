"""The shape pass: two samples through both models, then plugin by plugin build, add_links, transform."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse import seeds as rng
from stillhouse.assembly.failures import is_out_of_memory
from stillhouse.assembly.ownership import check_module, find_late_parameters, keeping_facts, list_parameters
from stillhouse.assembly.snapshot import Snapshot
from stillhouse.assembly.soundness import check_answers, compare_modes
from stillhouse.assembly.watch import Watch
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.step import LinkSpec, Side, Step
from stillhouse.contract.turns import enter
from stillhouse.errors import Fault, StillhouseError, first_line, raise_faults
from stillhouse.layout import format_shape
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import Active

__all__ = ["UNFIT", "Shapes", "ShapesSeen", "model_error", "pass_shapes", "shapes_of"]

UNFIT = (RuntimeError, ValueError, TypeError, AssertionError)
"""What models raise on inputs that do not suit them; torch and timm assert."""

Shapes = dict[str, tuple[str, str]]


@attrs.frozen
class ShapesSeen:
    """What the shape pass saw.

    Attributes:
        taps: ``{"student": {layer: shape}, "teacher": {layer: shape}}``, and further teachers' by their names.
        links: by plugin, ``{link: (student's shape, teacher's shape)}`` after its transform.
        task_loss: the task's loss on the two samples.
    """

    taps: dict[str, dict[str, str]]
    links: dict[str, Shapes]
    task_loss: float


def pass_shapes(
    assembly: Assembly,
    composition: Composition,
    hooks: Hooks,
    actives: Sequence[Active],
    step: Step,
    snapshot: Snapshot,
) -> ShapesSeen:
    """Send ``step`` through the models, without gradient, and have the plugins build on what comes of it.

    Args:
        assembly: what the plugins see.
        composition: takes in what they build and link.
        hooks: their hooks.
        actives: the plugins, in order.
        step: of at least two samples.
        snapshot: of the models; the plugins' modules are added.

    Raises:
        StillhouseError: with all faults of a stage: the models, the layers, then the plugins.
    """
    with torch.no_grad():
        composition.train()
        task_loss = _first_forward(assembly, composition, step)
        features = {"student": dict(step.student.features), "teacher": {}}
        features |= {name: dict(side.features) for name, side in _teachers_of(step)}
        taps = {model: {layer: format_shape(x) for layer, x in tapped.items()} for model, tapped in features.items()}
        if assembly.batches is not None and assembly.task.one_output:
            try:
                compare_modes(composition, step)
            except UNFIT as error:
                raise model_error("student", format_shape(step.inputs), error, " in eval mode") from error
        shapes = _build(assembly, composition, hooks, actives, step, features, snapshot)
    composition.links.complete()
    return ShapesSeen(taps, shapes, task_loss)


def _first_forward(assembly: Assembly, composition: Composition, step: Step) -> float:
    shape = format_shape(step.inputs)
    for model in composition.models.values():
        model.taps.watch()
    try:
        composition.run_student(step)
    except UNFIT as error:
        raise model_error("student", shape, error) from error
    assembly.task.check(step.student.output, step.targets, assembly.data)
    try:
        composition.run_teacher(step)
    except UNFIT as error:
        raise model_error("teacher", shape, error) from error
    faults = composition.models["student"].taps.check(step.student.features)
    for name, side in _teachers_of(step):
        faults += composition.models[name].taps.check(side.features)
    raise_faults(faults)
    check_answers(step)
    composition.terms.require_sample_losses(step)
    loss = float(assembly.task.loss(step.student.output, step.targets))
    if not math.isfinite(loss):
        raise _not_finite(assembly, step, loss)
    return loss


def _teachers_of(step: Step) -> list[tuple[str, Side]]:
    """The teachers' sides, by name; none in a run that reads no teacher."""
    return [] if step.teacher is None else [("teacher", step.teacher), *step.teachers.items()]


def _not_finite(assembly: Assembly, step: Step, loss: float) -> StillhouseError:
    """Where a task's loss that is not finite on the first two samples comes from, as far as it can be told."""
    if isinstance(step.inputs, Tensor) and not bool(torch.isfinite(step.inputs).all()):
        ids = ", ".join(map(str, step.ids.tolist()))
        return StillhouseError(f"the inputs of the samples {ids} hold values that are not finite", where="data")
    output = step.student.output
    if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
        return StillhouseError("its output is not finite before anything is trained", where="student")
    return StillhouseError(f"the task's loss on the first samples is {loss}", where="task")


def model_error(which: str, shape: str, error: Exception, mode: str = "") -> StillhouseError:
    """What an ``error`` in the forward pass of the model ``which`` says of inputs of ``shape``; memory is another matter."""
    if isinstance(error, StillhouseError):
        return error
    if is_out_of_memory(error):
        raise error
    return StillhouseError(
        f"the {which} cannot take inputs of shape {shape}{mode}: {first_line(error)}",
        where=which,
        hint="see [data] channels and size, and the model's args",
    )


def _build(
    assembly: Assembly,
    composition: Composition,
    hooks: Hooks,
    actives: Sequence[Active],
    step: Step,
    features: Mapping[str, Mapping[str, Tensor]],
    snapshot: Snapshot,
) -> dict[str, Shapes]:
    faults: list[Fault] = []
    calls = {name: {p.name: f for p, f in hooks.calls(name)} for name in ("build", "add_links", "transform")}
    shapes: dict[str, Shapes] = {}
    watch, broken = Watch(composition), False
    built = list_parameters(composition)
    enter(step, "transform")
    for active in actives:
        plugin = active.plugin
        where, hook = f"plugin {plugin.name!r}", "build"
        assembly.show(features, dict(step.links))
        try:
            if plugin.name in calls["build"]:
                _build_one(assembly, composition, active, calls["build"][plugin.name], snapshot)
                built |= {name: found for name, found in list_parameters(composition).items() if name not in built}
            hook = "add_links"
            if plugin.name in calls["add_links"]:
                with keeping_facts(assembly, hook):
                    specs = _check_specs(calls["add_links"][plugin.name](assembly))
                names = composition.links.add(plugin, specs)
                faults += _read(composition, step, where, list(zip(names, specs, strict=True)))
            hook = "transform"
            if plugin.name in calls["transform"] and not broken:
                try:
                    watch.around(plugin, hook, calls["transform"][plugin.name])(step)
                except StillhouseError as error:
                    faults += error.faults
                    broken = True
        except StillhouseError as error:
            faults += error.within(where).faults
            broken = True
        except Exception as error:
            error.add_note(f"in {where}, hook {hook!r}, before training; links: {shapes_of(step)}")
            raise
        shapes[plugin.name] = shapes_of(step)
    raise_faults(faults or find_late_parameters(built, composition))
    return shapes


def _build_one(assembly: Assembly, composition: Composition, active: Active, build: Any, snapshot: Snapshot) -> None:
    plugin = active.plugin
    rng.seed_everything(rng.derive(assembly.seed, "build", plugin.name))
    with torch.enable_grad(), keeping_facts(assembly, "build"):
        module = build(assembly)
    if module is None:
        return
    module = check_module(module, assembly).to(assembly.device)
    assembly.modules[plugin.name] = module
    composition.add_module_of(plugin, module)
    snapshot.add(module, plugin.name)
    composition.train()


def _check_specs(found: Any) -> list[LinkSpec]:
    specs = list(found) if isinstance(found, list | tuple) or hasattr(found, "__iter__") else [found]
    for spec in specs:
        if not isinstance(spec, LinkSpec):
            raise StillhouseError(f"add_links gave {spec!r}", hint='a list of LinkSpec("name", student, teacher)')
    return specs


def _read(composition: Composition, step: Step, where: str, specs: list[tuple[str, LinkSpec]]) -> list[Fault]:
    faults: list[Fault] = []
    features = composition.links.features(step, specs)
    for (name, spec), (_, _, student, teacher) in zip(specs, features, strict=True):
        place = f"{where}: link {name!r}, student {format_shape(student)}, teacher {format_shape(teacher)}"
        try:
            composition.links.read(step, [(name, spec)])
        except StillhouseError as error:
            faults += error.within(place).faults
            continue
        link = step.links[name]
        if not all(isinstance(x, Tensor) for x in (link.student, link.teacher)):
            got = f"{type(link.student).__name__} and {type(link.teacher).__name__}"
            faults.append(Fault(place, f"the read of its LinkSpec gave {got}", "two tensors (B, ...)"))
            dict.__delitem__(step.links, name)  # the engine's own way past the seal
    return faults


def shapes_of(step: Step) -> Shapes:
    """``{link: (student's shape, teacher's shape)}`` as they are now."""
    return {name: (_shape(link.student), _shape(link.teacher)) for name, link in step.links.items()}


def _shape(x: Any) -> str:
    return format_shape(x) if isinstance(x, Tensor) else type(x).__name__
