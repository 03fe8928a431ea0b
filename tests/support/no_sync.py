"""A guard that raises where a tensor becomes a Python number, list, array or condition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SYNCING = {
    "aten._local_scalar_dense.default",
    "aten.item.default",
    "aten.is_nonzero.default",
    "aten.equal.default",
    "aten.nonzero.default",
    "aten.masked_select.default",
}


class SynchronisedError(AssertionError):
    """The step read a tensor's value."""


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in SYNCING or (str(func).startswith("aten.index") and _masks(args)):
            raise SynchronisedError(str(func))
        return func(*args, **(kwargs or {}))


def _masks(args: Any) -> bool:
    """Whether an indexing operator is given a mask: the size of its result is then in the tensor's values."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raise :class:`SynchronisedError` where a tensor's value is read."""
    names = ["item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"]
    kept = {name: getattr(torch.Tensor, name) for name in names}

    def forbid(name: str) -> Any:
        def reader(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            raise SynchronisedError(name)

        return reader

    def assign(self: torch.Tensor, index: Any, value: Any) -> None:
        if not isinstance(value, torch.Tensor):  # a number is copied to the device, which CUDA waits for; fill_ is not
            raise SynchronisedError("__setitem__ of a number")
        kept["__setitem__"](self, index, value)

    try:
        for name in names:
            setattr(torch.Tensor, name, forbid(name))
        kept["__setitem__"] = torch.Tensor.__setitem__
        torch.Tensor.__setitem__ = assign
        with _Watch():
            yield
    finally:
        for name, original in kept.items():
            setattr(torch.Tensor, name, original)
