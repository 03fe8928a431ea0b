"""Programs of TorchScript as teachers: called as any module is, without a look inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError

__all__ = ["Scripted", "refuse_scripted", "wrap_scripted"]


class Scripted(nn.Module):
    """A module that calls a TorchScript program, which by itself has not all that a module has.

    The program's parameters and buffers are this module's; its layers are nobody's, since hooks on them never run.
    """

    _program: torch.jit.ScriptModule

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        object.__setattr__(self, "_program", program)
        self._take()

    def forward(self, *inputs: Any) -> Any:
        """The program's output."""
        return self._program(*inputs)

    def train(self, mode: bool = True) -> Scripted:
        """Set the program's mode as well."""
        self._program.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scripted:
        """Move or convert the program, as ``to`` does."""
        self._program._apply(fn)  # type: ignore[no-untyped-call]  # torch gives it no types
        self._take()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Scripted:
        return Scripted(copy.deepcopy(self._program, memo)).train(self.training)

    def _take(self) -> None:
        for name, parameter in self._program.named_parameters():
            self._parameters[name.replace(".", "_")] = parameter
        for name, buffer in self._program.named_buffers():
            self._buffers[name.replace(".", "_")] = buffer


def wrap_scripted(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return teachers that came from Python, those of TorchScript each in a module."""
    return {
        name: Scripted(model) if isinstance(model, torch.jit.ScriptModule) else model for name, model in models.items()
    }


def refuse_scripted(student: nn.Module | None) -> None:
    """Refuse a student that is a TorchScript program.

    Raises:
        StillhouseError: it is one.
    """
    if isinstance(student, torch.jit.ScriptModule):
        raise StillhouseError(
            "is a TorchScript program, which cannot be taken apart, trained and saved as a module",
            where="student",
            hint="hand over the module that it was made of, with its weights",
        )
