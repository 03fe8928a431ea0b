"""Folding: what leaves a run, with what training added worked into the student or taken away."""

from __future__ import annotations

from torch import nn

from stillhouse.contract.run import Run
from stillhouse.distributed.fsdp import gathered
from stillhouse.errors import StillhouseError
from stillhouse.registry.hooks import Hooks

__all__ = ["fold"]


def fold(run: Run, hooks: Hooks) -> nn.Module:
    """The student after each plugin's ``export`` in turn: without taps, in eval mode.

    Raises:
        StillhouseError: a plugin gave something else than a module.
    """
    run.composition.remove_taps()
    student = gathered(run.student)
    for plugin, export in hooks.calls("export"):
        try:
            folded = export(run, student)
        except Exception as error:
            error.add_note(f"in plugin {plugin.name!r}, hook 'export'")
            raise
        if not isinstance(folded, nn.Module):
            raise StillhouseError(
                f"export gave {type(folded).__name__}", where=f"plugin {plugin.name!r}", hint="an nn.Module"
            )
        student = folded
    return student.eval()
