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
from stillhouse.registry.order import Active

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
    """Let go of the teacher if no plugin has a use for it any more; whether it went.

    It has gone from this run. Whoever handed it over from Python still has it, on the CPU.
    """
    teacher = assembly.teacher
    if teacher is None or not assembly.released:
        return False
    served = any(assembly.released.values())
    needing = {a.name for a in actives if "teacher" in a.plugin.requires} - set(assembly.released)
    if not served and (needing or composition.models["teacher"].taps.layers):
        return False
    if composition.asks_teacher_again:
        by = ", ".join(repr(name) for name in assembly.released)
        raise StillhouseError(
            f"calls the teacher, which leaves memory before training: {by} has no more use for it",
            where="step.forward",
            hint="leave out the plugin that stands in for the teacher"
            if served
            else 'a plugin that calls the teacher in steps has requires = ("teacher",)',
        )
    composition.drop_teacher(hooks, served=served)
    assembly.drop_teacher()
    if assembly.device.type != "cpu":
        teacher.to("cpu")
    return True
