"""A snapshot of models' buffers, modes and gradients, to be put back after a walk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillhouse.contract.modes import keep_modes

__all__ = ["Snapshot", "unchanged"]


class Snapshot:
    """Buffers (non-persistent ones too), modes and gradients of modules; gradients are taken away meanwhile."""

    def __init__(self) -> None:
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._names: list[tuple[nn.Module, set[str], set[str]]] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._modes = ExitStack()

    def add(self, module: nn.Module | None) -> None:
        """Keep what ``module`` and its parts hold now."""
        if module is None:
            return
        self._modes.enter_context(keep_modes(module))
        for parameter in module.parameters():
            self._gradients.append((parameter, parameter.grad))
            parameter.grad = None
        for part in module.modules():
            self._names.append((part, set(part._buffers), set(part._non_persistent_buffers_set)))
            for name, buffer in part.named_buffers(recurse=False):
                if not is_lazy(buffer):  # which has no values yet; the first batch gives it its shape
                    self._buffers.append((part, name, buffer, buffer.clone()))

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every part its own buffers, values, gradients and mode again, and take away buffers that were added."""
        for module, names, not_saved in self._names:
            for name in set(module._buffers) - names:
                del module._buffers[name]
            module._non_persistent_buffers_set = not_saved
        for module, name, buffer, before in self._buffers:
            if buffer.shape != before.shape:
                buffer.resize_(before.shape)
            buffer.copy_(before)
            module._buffers[name] = buffer
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._modes.close()


@contextmanager
def unchanged(*models: nn.Module | None) -> Iterator[Snapshot]:
    """Put ``models``, and what is added to the snapshot meanwhile, back as they were."""
    snapshot = Snapshot()
    for model in models:
        snapshot.add(model)
    try:
        yield snapshot
    finally:
        snapshot.put_back()
