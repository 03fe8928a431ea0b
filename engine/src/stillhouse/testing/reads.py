"""A watch for what makes the host wait: a tensor that becomes a Python number, list, array or condition.

On the CPU nothing waits, so a dispatch mode looks for the operators behind ``.item()``, ``float()``, ``bool()`` and shapes
that depend on data; the accessors that go past it are replaced meanwhile. On a GPU each of them would stop the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["watch_reads"]

Report = Callable[[str, Tensor | None], None]

_WAITING = {
    "aten._local_scalar_dense.default": ".item(), float(), int() or a condition",
    "aten.item.default": ".item()",
    "aten.is_nonzero.default": "a condition on a tensor",
    "aten.equal.default": "torch.equal",
    "aten.nonzero.default": "torch.nonzero, or a mask as an index",
    "aten.masked_select.default": "masked_select, or a mask as an index",
}
_ACCESSORS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    def __init__(self, report: Report) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._report = report

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        name = str(func)
        if name in _WAITING:
            self._report(_WAITING[name], next((x for x in args if isinstance(x, Tensor)), None))
        elif name.startswith("aten.index") and _masks(args):
            self._report("a mask as an index", args[0])
        return func(*args, **(kwargs or {}))


def _masks(args: Any) -> bool:
    """Whether an indexing operator is given a mask: the size of its result is then in the tensor's values."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


class _ChecksOfTheHost(TorchFunctionMode):
    """Counts the calls under way of what reads values on the CPU alone, to check them: on a GPU these do not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        kwargs = kwargs or {}
        # Without the number of classes it is read off the tensor, and every device waits.
        checks = func is one_hot and (len(args) > 1 or kwargs.get("num_classes", -1) != -1)
        self.depth += checks
        try:
            return func(*args, **kwargs)
        finally:
            self.depth -= checks


@contextmanager
def watch_reads(report: Report) -> Iterator[None]:
    """Call ``report(what, tensor)`` wherever a tensor's value is read inside the block."""
    host = _ChecksOfTheHost()

    def tell(what: str, tensor: Tensor | None) -> None:
        if not host.depth:
            report(what, tensor)

    kept: dict[str, Any] = {name: getattr(Tensor, name) for name in (*_ACCESSORS, "__setitem__")}

    def reader(name: str) -> Callable[..., Any]:
        what = f".{name}()" if not name.startswith("__") else f"{name.strip('_')}(tensor)"

        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            tell(what, self)
            return kept[name](self, *args, **kwargs)

        return read

    def assign(self: Tensor, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor):  # a number is copied to the device, which CUDA waits for; fill_ is not
            tell("a number written by tensor[index] = ...", self)
        kept["__setitem__"](self, index, value)

    try:
        for name in _ACCESSORS:
            setattr(Tensor, name, reader(name))
        Tensor.__setitem__ = assign  # type: ignore[assignment]
        with _Watch(tell), host:
            yield
    finally:
        for name, original in kept.items():
            setattr(Tensor, name, original)
