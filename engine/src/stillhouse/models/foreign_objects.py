"""Objects of anybody's classes in a file of weights: read as shells, so that no code of theirs is imported or run.

Lightning keeps a ``Namespace`` beside the weights, torchvision's references their arguments, and who calls
``torch.save(model, ...)`` the module itself. torch's own restricted unpickler reads them all the same: each class that it does
not know is replaced by a class of ours that keeps what it is given and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

__all__ = ["Shell", "read_with_shells", "replace_shells"]

_DEEPEST = 64


class Shell(dict[Any, Any]):
    """Stands for an object of a class that is not imported; its attributes are what the pickle set.

    A dict, since classes such as Lightning's ``AttributeDict`` are, and a list as far as unpickling goes.
    """

    def __new__(cls, *_arguments: Any, **_options: Any) -> Shell:
        """Take whatever the class was called with."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        super().__init__()

    def append(self, _item: Any) -> None:
        """Take an item of a list, and forget it."""

    def extend(self, _items: Any) -> None:
        """Take items of a list, and forget them."""

    def add(self, _item: Any) -> None:
        """Take an item of a set, and forget it."""


def read_with_shells(path: Path) -> Any:
    """Read an archive of ``torch.save`` on the CPU, each object of an unknown class as a :class:`Shell`.

    Raises:
        Exception: whatever torch raises: no archive, damaged, or a class of a module that torch refuses by name.
    """
    shells: list[Any] = []
    for name in get_unsafe_globals_in_checkpoint(path):
        kind = type(name.rpartition(".")[2], (Shell,), {"__module__": name.rpartition(".")[0]})
        shells.append((kind, name))
    with safe_globals(shells):
        return torch.load(path, map_location="cpu", weights_only=True)


def replace_shells(content: Any) -> tuple[Any, list[str]]:
    """Replace modules among the shells of a file's ``content`` by their state dicts, and leave the others out.

    Returns:
        What is left, and the classes of what is not.
    """
    left_out: list[str] = []
    return _replace(content, left_out), sorted(set(left_out))


def _replace(value: Any, left_out: list[str]) -> Any:
    if isinstance(value, Shell):
        state = dict(_list_tensors(value, "", 0))
        if state:
            return state
        left_out.append(f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("."))
        return None
    if isinstance(value, Mapping):
        return {key: _replace(inner, left_out) for key, inner in value.items()}
    return value


def _list_tensors(module: Shell, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """What ``state_dict`` of the module in a shell would give: parameters and persistent buffers by key."""
    own = vars(module)
    if depth > _DEEPEST or "_modules" not in own:
        return
    passing = own.get("_non_persistent_buffers_set") or ()
    for table in ("_parameters", "_buffers"):
        for name, value in (own.get(table) or {}).items():
            if isinstance(value, Tensor) and not (table == "_buffers" and name in passing):
                yield f"{prefix}{name}", value.detach()
    for name, child in (own["_modules"] or {}).items():
        if isinstance(child, Shell):
            yield from _list_tensors(child, f"{prefix}{name}.", depth + 1)
