"""What plugins change of the student before training, and when the teacher may go."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stillhouse import seeds as rng
from stillhouse.contract.run import Run
from stillhouse.distributed.fsdp import is_sharded
from stillhouse.errors import StillhouseError
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import Active

__all__ = ["adapt_student", "let_teacher_go"]


def adapt_student(run: Run, hooks: Hooks) -> None:
    """Have each plugin's ``adapt`` change ``run.student``, in order, each with a seed of its own.

    Raises:
        StillhouseError: a plugin cannot, or gave something else than a module.
    """
    for plugin, adapt in hooks.calls("adapt"):
        where = f"plugin {plugin.name!r}"
        if is_sharded(run.student):
            raise StillhouseError(
                "changes the student, whose parameters are spread over the processes already",
                where=where,
                hint='distributed.shard = "none" or "teacher"',
            )
        with rng.preserved():
            rng.seed_everything(rng.derive(run.seed, "adapt", plugin.name))
            try:
                adapted = adapt(run, run.student)
            except StillhouseError as error:
                raise error.within(where) from error.__cause__
            except Exception as error:
                error.add_note(f"in {where}, hook 'adapt'")
                raise
        if adapted is None:
            continue
        if not isinstance(adapted, nn.Module):
            raise StillhouseError(f"adapt gave {type(adapted).__name__}", where=where, hint="an nn.Module, or None")
        run.student = adapted.to(run.device)


def let_teacher_go(run: Run, composition: Composition, hooks: Hooks, actives: Sequence[Active]) -> bool:
    """Let go of the teacher if no plugin has a use for it any more; whether it went.

    It has gone from this run. Whoever handed it over from Python still has it, on the CPU.
    """
    teacher = run.teacher
    if teacher is None or not run.released:
        return False
    served = any(run.released.values())
    needing = {a.name for a in actives if "teacher" in a.plugin.requires} - set(run.released)
    if not served and (needing or composition.models["teacher"].taps.layers):
        return False
    if composition.asks_teacher_again:
        by = ", ".join(repr(name) for name in run.released)
        raise StillhouseError(
            f"calls the teacher, which leaves memory before training: {by} has no more use for it",
            where="step.forward",
            hint="leave out the plugin that stands in for the teacher"
            if served
            else 'a plugin that calls the teacher in steps has requires = ("teacher",)',
        )
    composition.drop_teacher(hooks, served=served)
    run.teacher = None
    if run.device.type != "cpu":
        teacher.to("cpu")
    return True
