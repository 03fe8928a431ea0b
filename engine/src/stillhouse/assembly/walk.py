"""The walk over the plugins with one small batch, before anything is trained or written.

First a shape pass: taps are attached, two samples go through student and teacher, then plugin by plugin: build, add_links,
transform. So each ``build`` sees the shapes that really reach it, and what does not fit is named by plugin, link and shape.
Then one rehearsed step, with gradients and nothing applied. Afterwards every buffer, mode, gradient and generator is as it
was before.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from stillhouse import seeds as rng
from stillhouse.assembly.adaptation import adapt_student, release
from stillhouse.assembly.labelled_part import restrict
from stillhouse.assembly.ownership import keeping_facts, refuse_shared
from stillhouse.assembly.rehearsal import Rehearsed, rehearse
from stillhouse.assembly.shape_pass import Shapes, pass_shapes
from stillhouse.assembly.snapshot import Snapshot, unchanged
from stillhouse.assembly.soundness import check_weights, list_names, note_model
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.layers import Which, split_layer
from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Tap
from stillhouse.distributed.fsdp import reshard
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.loop.step import new_step
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import Active

__all__ = ["Stage", "Walk", "assemble"]


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
        notes: what is worth knowing of the models.
        outputs_read: the teachers whose output a plugin reads, with the first such plugin.
        teacher_parameters: how many numbers each teacher has, by name.
        teacher_gone: whether the one called ``teacher`` has left memory: see :meth:`stillhouse.contract.assembly.Assembly.release_teacher`.
    """

    composition: Composition
    hooks: Hooks
    taps: dict[str, dict[str, str]]
    stages: list[Stage]
    task_loss: float
    notes: list[str]
    teacher_parameters: dict[str, int] = attrs.field(factory=dict)
    teacher_gone: bool = False
    outputs_read: dict[str, str] = attrs.field(factory=dict)


def assemble(
    assembly: Assembly,
    actives: Sequence[Active],
    batch: Batch,
    precision: torch.dtype = torch.float32,
    weighing: Sequence[Named] = (),
) -> Walk:
    """Walk over the plugins and make the composition.

    Args:
        assembly: with the plugins of ``actives``; what they adapt and build goes into it.
        actives: the plugins, ordered.
        batch: at least two samples, on the CPU.
        precision: dtype of the models' forward passes.
        weighing: what weighs samples beside the plugins, by the hook ``sample_weights``.

    Raises:
        StillhouseError: with all faults of a stage: the layers, then the shapes.
    """
    hooks = Hooks(actives, weighing)
    check_weights(assembly.student, assembly.all_teachers)  # adapt may read a teacher at length
    adapt_student(assembly, hooks)
    frozen = {} if assembly.teacher is None else {"teacher": assembly.teacher, **assembly.teachers}
    refuse_shared({"student": assembly.student, **frozen})
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
        if assembly.recipe.data.has_unlabelled:
            composition.hooks = restrict(composition.hooks, assembly.recipe.data)
        return _walk_over(assembly, composition, hooks, actives, batch)
    except BaseException:
        composition.remove_taps()  # the models may be the caller's
        raise


def _walk_over(
    assembly: Assembly, composition: Composition, hooks: Hooks, actives: Sequence[Active], batch: Batch
) -> Walk:
    """The walk itself; the taps are on the models."""
    step = new_step(batch, composition)
    rehearsed = Rehearsed({}, [], {})
    teachers = assembly.all_teachers
    with rng.preserve_state(), unchanged(assembly.student, *teachers.values()) as snapshot:
        rng.seed_everything(rng.derive(assembly.seed, "assembly"))
        seen = pass_shapes(assembly, composition, hooks, actives, step, snapshot)
        assembly.conceal()
        step.clear()
        if assembly.batches is not None:  # a run that is loaded does not train again
            rehearsed = rehearse(assembly, composition, hooks, actives, batch)
            raise_faults(snapshot.find_unsavable())
            _note_unsaved(assembly, snapshot, rehearsed.notes)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in teachers.items()}
    for model in (assembly.student, *teachers.values()):
        reshard(model)
    gone = release(assembly, composition, hooks, actives)
    terms = rehearsed.terms
    stages = [
        Stage(a.name, seen.links[a.name], _trainable(composition, a.name), terms.get(a.name, {})) for a in actives
    ]
    return Walk(
        composition, hooks, seen.taps, stages, seen.task_loss, rehearsed.notes, sizes, gone, rehearsed.outputs_read
    )


def _note_unsaved(assembly: Assembly, snapshot: Snapshot, notes: list[str]) -> None:
    """Tell of buffers that training changes and no checkpoint holds."""
    plugins = {plugin.name: plugin for plugin in assembly.plugins}
    for owner, names in snapshot.find_unsaved().items():
        what = f"training changes {list_names(names)}, which no checkpoint holds (persistent=False)"
        if owner in plugins:
            assembly.note(plugins[owner], f"{what}: a run that goes on starts them anew")
        else:
            note_model(assembly, notes, f"student: {what}: one that is loaded answers otherwise")


def _find_taps(assembly: Assembly, hooks: Hooks) -> dict[Which, list[str]]:
    layers: dict[Which, list[str]] = {"student": [], "teacher": [], **{name: [] for name in assembly.teachers}}
    faults: list[Fault] = []
    for plugin, add_taps in hooks.calls("add_taps"):
        try:
            with keeping_facts(assembly, "add_taps"):
                taps = add_taps(assembly)
            if taps is None or isinstance(taps, Tap):
                raise StillhouseError(f"add_taps gave {taps!r}", hint="a list: [Tap('student', 'layer4')]")
            for tap in taps:
                if not isinstance(tap, Tap):
                    raise StillhouseError(f"add_taps gave {tap!r}", hint="Tap('student', 'layer4')")
                model, layer = split_layer(tap.model, tap.layer)
                found = assembly.layers(model, layer)  # refuses a model that the run does not have
                layers[model] += found
        except StillhouseError as error:
            faults += error.within(f"plugin {plugin.name!r}").faults
        except Exception as error:
            error.add_note(f"in plugin {plugin.name!r}, hook 'add_taps'")
            raise
    raise_faults(faults)
    return layers


def _trainable(composition: Composition, name: str) -> int:
    if name not in composition.modules_of:
        return 0
    return sum(p.numel() for p in composition.modules_of[name].parameters() if p.requires_grad)
