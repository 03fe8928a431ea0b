"""Export: the student that leaves a run, with what training added worked into it or taken away."""

from __future__ import annotations

from torch import nn

from stillhouse.assembly.walk import Walk
from stillhouse.contract.assembly import Assembly
from stillhouse.distributed.fsdp import gather_model
from stillhouse.errors import StillhouseError

__all__ = ["fold"]


def fold(assembly: Assembly, walk: Walk) -> nn.Module:
    """The student after each plugin's ``export`` in turn: without taps, in eval mode.

    Raises:
        StillhouseError: a plugin gave something else than a module.
    """
    walk.composition.remove_taps()
    student = gather_model(assembly.student)
    for plugin, export in walk.hooks.calls("export"):
        try:
            folded = export(assembly, student)
        except Exception as error:
            error.add_note(f"in plugin {plugin.name!r}, hook 'export'")
            raise
        if not isinstance(folded, nn.Module):
            raise StillhouseError(
                f"export gave {type(folded).__name__}", where=f"plugin {plugin.name!r}", hint="an nn.Module"
            )
        student = folded
    return student.eval()
