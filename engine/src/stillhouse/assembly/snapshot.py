"""A snapshot of models' buffers and modes, to be put back after a walk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from stillhouse.contract.modes import keep_modes

__all__ = ["Snapshot", "unchanged"]


class Snapshot:
    """Buffers (non-persistent ones too) and modes of modules."""

    def __init__(self) -> None:
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._modes = ExitStack()

    def add(self, module: nn.Module | None) -> None:
        """Keep what ``module`` and its parts hold now."""
        if module is None:
            return
        self._modes.enter_context(keep_modes(module))
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                self._buffers.append((part, name, buffer, buffer.clone()))

    def put_back(self) -> None:
        """Give every part its own buffers, values and mode again."""
        for module, name, buffer, before in self._buffers:
            buffer.copy_(before)
            setattr(module, name, buffer)
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
