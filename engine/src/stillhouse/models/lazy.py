"""Models with parts whose shapes follow from their inputs, as torch's lazy layers have them: given these shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillhouse.contract.modes import keep_modes
from stillhouse.errors import StillhouseError, first_line
from stillhouse.seeds import OwnRandomness

__all__ = ["materialise"]


def materialise(model: nn.Module, make_inputs: Callable[[], Tensor], seed: int, where: str) -> None:
    """Call ``model`` once, where it has lazy parameters or buffers, so that they get their shapes and their start.

    Optimizers, checkpoints, averages and whoever counts parameters take what is there before training. The pass is in
    eval mode and without gradient; afterwards modes and generators are as before.

    Args:
        model: on the CPU.
        make_inputs: makes what it will be called with, of two samples; asked only where something is lazy.
        seed: decides the values.
        where: the model, for the fault.

    Raises:
        StillhouseError: it cannot be called with them, or has lazy parts still.
    """
    if not _list_lazy(model):
        return
    try:
        with OwnRandomness() as randomness, torch.no_grad(), keep_modes(model, training=False):
            randomness.seed(seed & 0xFFFFFFFFFFFFFFFF)
            model(make_inputs())
    except Exception as error:
        what = f"its lazy layers get their shapes from a first batch, and it cannot take one: {first_line(error)}"
        raise StillhouseError(what, where=where, hint="layers of their final shapes, nn.Linear(in, out)") from error
    left = _list_lazy(model)
    if left:
        raise StillhouseError(
            f"{left[0]!r} has no shape after a first batch, in eval mode", where=where, hint="nn.Linear(in, out)"
        )


def _list_lazy(model: nn.Module) -> list[str]:
    return [name for name, x in (*model.named_parameters(), *model.named_buffers()) if is_lazy(x)]
