"""Train and eval mode of a model's modules: put for a while, and the parts that keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["find_kept_in_eval", "keep_modes"]


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


def find_kept_in_eval(model: nn.Module) -> list[nn.Module]:
    """The parts of ``model`` that stay in eval mode in every step, from the modes in which it is given.

    Of a model in train mode every part that is in eval mode: somebody has put it there. Of a model that is in eval mode
    as a whole, as most loaders leave theirs, only what holds tensors none of which is trained: a frozen BatchNorm, or a
    frozen network with the dropout inside it.
    """
    if model.training:
        return [part for part in model.modules() if not part.training]
    return _find_frozen(model)


def _find_frozen(module: nn.Module) -> list[nn.Module]:
    holds_tensors = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
    if not module.training and holds_tensors and not any(p.requires_grad for p in module.parameters()):
        return [part for part in module.modules() if not part.training]
    return [part for child in module.children() for part in _find_frozen(child)]
