"""Adaptation: plugins change the student before training; and the teacher goes when none of them needs it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stillhouse import seeds as rng
from stillhouse.assembly.ownership import keeping_facts
from stillhouse.contract.assembly import Assembly
from stillhouse.distributed.fsdp import is_sharded
from stillhouse.errors import StillhouseError
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import ENGINE_CAPABILITIES, Active

__all__ = ["adapt_student", "release"]


def adapt_student(assembly: Assembly, hooks: Hooks) -> None:
    """Have each plugin's ``adapt`` change ``assembly.student``, in order, each with a seed of its own.

    Raises:
        StillhouseError: a plugin cannot, or gave something else than a module.
    """
    for plugin, adapt in hooks.calls("adapt"):
        where = f"plugin {plugin.name!r}"
        if is_sharded(assembly.student):
            raise StillhouseError(
                "changes the student, whose parameters are spread over the processes already",
                where=where,
                hint='distributed.shard = "none" or "teacher"',
            )
        with rng.preserve_state():
            rng.seed_everything(rng.derive(assembly.seed, "adapt", plugin.name))
            try:
                with keeping_facts(assembly, "adapt"):
                    adapted = adapt(assembly, assembly.student)
            except StillhouseError as error:
                raise error.within(where) from error.__cause__
            except Exception as error:
                error.add_note(f"in {where}, hook 'adapt'")
                raise
        if adapted is None:
            continue
        if not isinstance(adapted, nn.Module):
            raise StillhouseError(f"adapt gave {type(adapted).__name__}", where=where, hint="an nn.Module, or None")
        assembly.student = adapted.to(assembly.device)


def release(assembly: Assembly, composition: Composition, hooks: Hooks, actives: Sequence[Active]) -> bool:
    """Let go of the teacher if no plugin has a use for it any more; whether it went. Further ones go where none is needed.

    It has gone from this run. Whoever handed it over from Python still has it, on the CPU.

    Raises:
        StillhouseError: a plugin requires a live teacher, and it would go.
    """
    teacher = assembly.teacher
    if teacher is None or not assembly.released:
        return False
    served = any(assembly.released.values())
    needing = {a.name for a in actives if set(ENGINE_CAPABILITIES) & set(a.plugin.requires)} - set(assembly.released)
    tapped = any(model.frozen and model.taps.layers for model in composition.models.values())
    if not served and (needing or tapped):
        return False
    live = next((a.name for a in actives if "live teacher" in a.plugin.requires), None)
    if live is not None:
        by = next(name for name, for_all in assembly.released.items() if for_all or not served)
        stands_in = "stands in for it in every step" if served else "has no more use for it"
        raise StillhouseError(
            f"requires a live teacher, and the teacher leaves memory before training: {by!r} {stands_in}",
            where=f"plugin {live!r}",
            hint=f"leave out {by!r}" if by != live else "keep the teacher: do not call assembly.release_teacher",
        )
    going = [teacher] if served else list(assembly.all_teachers.values())
    composition.drop_teacher(hooks, served=served)
    assembly.drop_teacher(further=not served)
    if assembly.device.type != "cpu":
        for model in going:
            model.to("cpu")
    return True
