"""The rehearsal: one whole step before anything is trained, with terms at weight 0 too, and nothing applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse import seeds as rng
from stillhouse.assembly.combination import Combination
from stillhouse.assembly.ownership import find_late_parameters, list_parameters
from stillhouse.assembly.shape_pass import shapes_of
from stillhouse.assembly.soundness import (
    find_frozen_in_training,
    find_leaves,
    find_leaves_of_measured,
    list_names,
    note_model,
    tell_probabilities,
)
from stillhouse.assembly.watch import Watch
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Step
from stillhouse.distributed.fsdp import is_sharded
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.loop.step import new_step
from stillhouse.loop.step_hooks import StepHooks
from stillhouse.nested import PartlyLabelled
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import CLASSES, Active
from stillhouse.schedule import Schedule

__all__ = ["Rehearsed", "rehearse"]

Terms = dict[str, dict[str, float]]


@attrs.frozen
class Rehearsed:
    """What the rehearsed step saw.

    Attributes:
        terms: by plugin, its loss terms with their values.
        notes: what is worth knowing of the models, and no fault.
        outputs_read: the teachers whose output a plugin's hook has read, with the first such plugin.
    """

    terms: Terms
    notes: list[str]
    outputs_read: dict[str, str]


def rehearse(
    assembly: Assembly, composition: Composition, hooks: Hooks, actives: Sequence[Active], batch: Batch
) -> Rehearsed:
    """Take a step on ``batch`` as training takes it, up to the gradients; these stay for the caller to take away.

    Args:
        assembly: gets the notes of plugins.
        composition: complete, without gradients.
        hooks: the plugins'.
        actives: the plugins, in order.
        batch: at least two samples.

    Raises:
        StillhouseError: with all faults of the plugins' hooks, or with all modules that nothing reaches.
    """
    before = list_parameters(composition)
    rng.seed_everything(rng.derive(assembly.seed, "assembly"))
    composition.train()
    faults: list[Fault] = []
    plain = composition.hooks
    watch = Watch(composition)
    composition.hooks = _everything_on(plain).wrapped(_gathering(watch, faults))
    combination = None if composition.combiner is None else Combination(assembly, composition, composition.combiner)
    step = new_step(batch, composition)
    try:
        # The caller may be in no_grad, and a run trains all the same.
        with torch.enable_grad():
            composition.prepare([step])
            raise_faults(_wrong_targets(actives, step))  # before a hook that reads them raises what says less
            total = composition.forward(step)
            raise_faults([*faults, *find_late_parameters(before, composition)])
            _refuse_no_terms(step)
            if combination is not None:
                combination.backward(step)
            elif total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            raise_faults([*find_late_parameters(before, composition), *_unreached(assembly, composition, hooks, step)])
            notes = _notes_on_models(assembly, composition, step, watch.read)
            if combination is not None:
                combination.combine(step)
    except StillhouseError:
        raise
    except Exception as error:
        error.add_note(f"before training, in the rehearsed step; links: {shapes_of(step)}")
        raise
    finally:
        composition.hooks = plain
    _note_terms(assembly, composition, step)
    _note_frozen(assembly, composition)
    terms: Terms = {}
    for name, value in step.losses.items():
        terms.setdefault(name.split("/")[0], {})[name] = float(value.detach())
    step.clear()
    return Rehearsed(terms, notes, dict(watch.read))


def _everything_on(hooks: StepHooks) -> StepHooks:
    """The same with each weight that is 0, or may be now by its schedule, 1: what is off now is on later."""

    def on(weight: float | Schedule) -> float | Schedule:
        return 1.0 if isinstance(weight, Schedule) or weight == 0.0 else weight

    return attrs.evolve(hooks, terms=[(p, name, function, on(weight)) for p, name, function, weight in hooks.terms])


def _gathering(watch: Watch, faults: list[Fault]) -> Callable[..., Callable[[Step], Any]]:
    """Watched hooks; what is wrong in ``losses`` goes to ``faults``, so that every plugin's is told at once."""

    def around(plugin: Named, hook: str, function: Callable[[Step], Any]) -> Callable[[Step], Any]:
        watched = watch.around(plugin, hook, function)
        if hook != "losses":
            return watched

        def gathered(step: Step) -> Any:
            try:
                return watched(step)
            except StillhouseError as error:
                faults.extend(error.faults)
                return {}

        return gathered

    return around


def _wrong_targets(actives: Sequence[Active], step: Step) -> list[Fault]:
    """Plugins that require class indices, where targets are something else once transforms have mixed them."""
    y = step.targets.values if isinstance(step.targets, PartlyLabelled) else step.targets
    if isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point():
        return []
    return [
        Fault(
            f"plugin {active.name!r}",
            f"requires {CLASSES!r}, class indices (B,), and the step's targets are something else",
            "another [task], or no mixing in [data] batch_transforms",
        )
        for active in actives
        if CLASSES in active.plugin.requires
    ]


def _refuse_no_terms(step: Step) -> None:
    """Refuse a run of a task without a loss of its own, to which no plugin adds a term."""
    if set(step.losses) == {"task"} and not step.losses["task"].requires_grad and not float(step.losses["task"]):
        raise StillhouseError(
            "give no loss term, and the task has no loss of its own",
            where="plugins",
            hint="list plugins that do: features, logits, ...",
        )


def _unreached(assembly: Assembly, composition: Composition, hooks: Hooks, step: Step) -> list[Fault]:
    """Plugins' modules of which no parameter has a gradient; of those with some, and where it may come later, a note."""
    faults = []
    # backward_completed may write gradients of its own; a plugin without a term now may have one later.
    excused = {p.name for p, _ in hooks.calls("backward_completed")}
    gives = {name.split("/")[0] for name in step.losses}
    excused |= {p.name for p, _ in hooks.calls("losses") if p.name not in gives}
    plugins = {plugin.name: plugin for plugin in assembly.plugins}
    for owner, module in composition.modules_of.items():
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        without = [name for name, p in trained.items() if p.grad is None]
        if not without:
            continue
        what = f"no loss term reaches {list_names(without)} of its module"
        if len(without) == len(trained) and owner not in excused:
            hint = "use it in transform or losses; requires_grad_(False) for what is not trained by the optimizer"
            faults.append(Fault(f"plugin {owner!r}", f"{what}, which build gave", hint))
        else:
            assembly.note(plugins[owner], what)
    return faults


def _note_terms(assembly: Assembly, composition: Composition, step: Step) -> None:
    """Note plugins that gave no term, and terms that do not reach the student."""
    plugins = {plugin.name: plugin for plugin in assembly.plugins}
    students = {id(p) for p in composition.student.parameters() if p.requires_grad}
    for plugin, name, _, _ in composition.hooks.terms:
        own = [term for term in step.losses if term.split("/")[0] == name]
        if not own and name in plugins:
            assembly.note(plugin, "losses gave no term in the rehearsed step")
    if is_sharded(composition.student):
        return  # a forward pass sees other tensors than these
    for term, value in step.losses.items():
        owner = term.split("/")[0]
        leaves, is_whole = find_leaves(value)
        if owner in plugins and is_whole and not leaves & students:
            assembly.note(plugins[owner], f"the loss term {term!r} reaches plugins' modules only, not the student")


def _note_frozen(assembly: Assembly, composition: Composition) -> None:
    """Note frozen networks of plugins that train mode changes."""
    plugins = {plugin.name: plugin for plugin in assembly.plugins}
    for owner, module in composition.modules_of.items():
        for what in find_frozen_in_training(module).values():
            assembly.note(plugins[owner], f"{what}; what build gives by requires_grad_(False).eval() stays as it is")


def _notes_on_models(
    assembly: Assembly, composition: Composition, step: Step, outputs_read: Mapping[str, str]
) -> list[str]:
    notes: list[str] = []
    student = composition.student
    without = {name: p for name, p in student.named_parameters() if p.requires_grad and p.grad is None}
    if without:
        notes.append(f"no loss term reaches {list_names(list(without))}: these parameters stay as they start")
        leaves = find_leaves_of_measured(composition, step)
        measured = [name for name, p in without.items() if id(p) in leaves]
        if measured and step.losses["task"].requires_grad:
            what = f"student: no loss term reaches {list_names(measured)}, and its output in eval mode is computed from them"
            note_model(assembly, notes, f"{what}: what is measured is not what is trained")
    kept = {id(part) for part in composition.kept_in_eval}
    names = [name or "all of it" for name, part in student.named_modules() if id(part) in kept]
    if names:
        notes.append(f"stays in eval mode, as it was given: {list_names(names)}")
    if assembly.task.takes_logits:
        output, classes = step.student.output, assembly.task.outputs(assembly.data)
        if isinstance(output, Tensor) and output.ndim > 1 and output.shape[1] > classes > 0:
            what = f"student: has {output.shape[1]} outputs, and the data {classes} classes"
            note_model(
                assembly,
                notes,
                f"{what}: the others are learnt never to be said; num_classes = {classes} leaves them out",
            )
        told = tell_probabilities(output)
        if told:
            note_model(
                assembly,
                notes,
                f"student: {told}; {type(assembly.task).__name__} takes logits: leave the last softmax or sigmoid out",
            )
        for name, plugin in outputs_read.items():
            side = step.side(name)
            told = "" if side is None else tell_probabilities(side.output)
            if told:
                note_model(
                    assembly,
                    notes,
                    f"{name}: {told}; plugin {plugin!r} reads them: give it logits, leave the last softmax or sigmoid out",
                )
    return notes
