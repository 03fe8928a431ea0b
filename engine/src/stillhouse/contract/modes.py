"""Train and eval mode of a model's modules, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["keep_modes"]


@contextmanager
def keep_modes(model: nn.Module, *, training: bool | None = None) -> Iterator[None]:
    """Put every module of ``model`` back into the mode that it had before, also after an exception.

    Args:
        model: whose modules.
        training: have all of them in train mode (True) or eval mode (False) meanwhile; None leaves them as they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    if training is not None:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
