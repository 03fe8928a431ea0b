"""A snapshot of models' buffers, modes and gradients, to be put back after a walk; and what it finds changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillhouse.contract.modes import keep_modes
from stillhouse.errors import Fault
from stillhouse.layout import format_shape
from stillhouse.nested import can_be_made, can_be_resized

__all__ = ["Snapshot", "unchanged"]


@attrs.frozen(eq=False)
class _Part:
    """A module as it was: whose it is, the model that it is a part of and its path in it, and its buffers' names."""

    owner: str | None
    root: nn.Module
    path: str
    module: nn.Module
    names: set[str]
    not_saved: set[str]

    def key(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


class Snapshot:
    """Buffers (non-persistent ones too), modes and gradients of modules; gradients are taken away meanwhile."""

    def __init__(self) -> None:
        self._buffers: list[tuple[_Part, str, Tensor, Tensor]] = []
        self._parts: list[_Part] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._modes = ExitStack()

    def add(self, module: nn.Module | None, owner: str | None = None) -> None:
        """Keep what ``module`` and its parts hold now.

        Args:
            module: may be None.
            owner: whose it is, where checkpoints hold it: a plugin's name, or empty for the student; None: they do not.
        """
        if module is None:
            return
        self._modes.enter_context(keep_modes(module))
        for parameter in module.parameters():
            self._gradients.append((parameter, parameter.grad))
            parameter.grad = None
        for path, inner in module.named_modules():
            part = _Part(owner, module, path, inner, set(inner._buffers), set(inner._non_persistent_buffers_set))
            self._parts.append(part)
            for name, buffer in inner.named_buffers(recurse=False):
                if not is_lazy(buffer):  # which has no values yet; the first batch gives it its shape
                    self._buffers.append((part, name, buffer, buffer.clone()))

    def find_unsavable(self) -> list[Fault]:
        """Faults of buffers of which a checkpoint, written after a step, could not be loaded before one.

        They were made since, or have another shape, and the module has no way to take that from a state.
        """
        faults = []
        for part in self._parts:
            made = set(part.module._buffers) - part.names - part.module._non_persistent_buffers_set
            faults += [
                _fault(part.owner, key, "is made in a step")
                for key in map(part.key, sorted(made))
                if part.owner is not None and not can_be_made(part.root, key)
            ]
        for part, name, _, before in self._buffers:
            now, key = part.module._buffers.get(name), part.key(name)
            if part.owner is None or now is None or name in part.not_saved or now.shape == before.shape:
                continue
            if not can_be_resized(part.root, key):
                change = f"from {format_shape(before)} to {format_shape(now)}"
                faults.append(_fault(part.owner, key, f"changes its shape in a step, {change}"))
        return faults

    def find_unsaved(self) -> dict[str, list[str]]:
        """The buffers whose values have changed and which no checkpoint holds, by their owner: see :meth:`add`.

        One of another shape is not among them: it follows from the batch, as tables of positions do.
        """
        found: dict[str, list[str]] = {}
        for part, name, _, before in self._buffers:
            now = part.module._buffers.get(name)
            if part.owner is None or name not in part.not_saved or now is None or now.shape != before.shape:
                continue
            if not bool(((now == before) | ((now != now) & (before != before))).all()):
                found.setdefault(part.owner, []).append(part.key(name))
        return found

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every part its own buffers, values, gradients and mode again, and take away buffers that were added."""
        for part in self._parts:
            for name in set(part.module._buffers) - part.names:
                del part.module._buffers[name]
            part.module._non_persistent_buffers_set = part.not_saved
        for part, name, buffer, before in self._buffers:
            if buffer.shape != before.shape:
                buffer.resize_(before.shape)
            buffer.copy_(before)
            part.module._buffers[name] = buffer
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._modes.close()


def _fault(owner: str | None, key: str, what: str) -> Fault:
    return Fault(
        f"plugin {owner!r}" if owner else "student",
        f"the buffer {key!r} {what}: a checkpoint of it could not be loaded",
        "give it its final shape before training; or persistent=False, for what a run can do without when it goes on",
    )


@contextmanager
def unchanged(student: nn.Module, *models: nn.Module) -> Iterator[Snapshot]:
    """Put ``student``, frozen ``models``, and what is added to the snapshot meanwhile, back as they were."""
    snapshot = Snapshot()
    snapshot.add(student, "")
    for model in models:
        snapshot.add(model)
    try:
        yield snapshot
    finally:
        snapshot.put_back()
