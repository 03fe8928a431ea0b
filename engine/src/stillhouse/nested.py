"""Tensors in what is nested: tuples, lists and dicts of them (a batch, its targets, a model's output, a state dict), and modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = [
    "PartlyLabelled",
    "can_be_made",
    "can_be_resized",
    "divide_rows",
    "list_tensors",
    "map_tensors",
    "slice_rows",
]

T = TypeVar("T")


def map_tensors(function: Callable[[Any], Any], tree: Any, kind: type = Tensor) -> Any:
    """Apply ``function`` to every tensor (or ``kind``) in the tuples, lists and dicts of ``tree``; returns a copy."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value, kind) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return _rebuild_like(tree, (map_tensors(function, value, kind) for value in tree))
    return tree


def slice_rows(tree: Any, rows: slice | int, n: int) -> Any:
    """Slice samples, or one, out of a batch of ``n``: tensors and lists of ``n`` by row; dicts and tuples by entry.

    A tensor without rows, such as a detector's loss, is of the whole batch, and left alone.
    """
    if isinstance(tree, Tensor) and not tree.ndim:
        return tree
    if isinstance(tree, Tensor) or (isinstance(tree, list) and len(tree) == n):
        return tree[rows]
    if isinstance(tree, Mapping):
        return {key: slice_rows(value, rows, n) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return _rebuild_like(tree, (slice_rows(value, rows, n) for value in tree))
    return tree


class PartlyLabelled(NamedTuple):
    """Targets of a batch that has unlabelled samples after its labelled ones: the first rows count.

    Everything in it is known on the host, so that nobody waits for the device to find the labelled rows.

    Attributes:
        values: what the task's ``collate`` made of all of the batch's targets; those of unlabelled samples mean nothing.
        labelled: whether each sample has a label (B,), those that have one first.
        of: how many samples of the whole batch have one, and how many it has; of a part, those of the batch that it is of.
    """

    values: Any
    labelled: list[bool]
    of: tuple[int, int]

    @property
    def number(self) -> int:
        """How many samples have a label."""
        return sum(self.labelled)

    def select(self, tree: T) -> T:
        """The labelled samples' rows of ``tree``: a tensor (B, ...), or tuples, dicts and lists of them; views, no copies."""
        selected: T = slice_rows(tree, slice(self.number), len(self.labelled))
        return selected


def divide_rows(targets: Any, n: int, parts: int) -> list[slice]:
    """The rows of each of ``parts`` parts of a batch of ``n`` samples: neighbours.

    Of one that is partly labelled each part has every ``parts``-th row, so that it has its share of the labelled samples, and
    has them first.
    """
    if isinstance(targets, PartlyLabelled):
        return [slice(i, None, parts) for i in range(parts)]
    bounds = [round(i * n / parts) for i in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


def list_tensors(tree: Any) -> list[Tensor]:
    """List all tensors of ``tree``, in order; a dict's by their keys' text."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [tensor for key in sorted(tree, key=str) for tensor in list_tensors(tree[key])]
    if isinstance(tree, list | tuple):
        return [tensor for value in tree for tensor in list_tensors(value)]
    return []


def count_writes(x: Any) -> int:
    """How often autograd has heard of writes into ``x``; 0 of what is no tensor, or one of inference, which does not count."""
    return x._version if isinstance(x, Tensor) and not x.is_inference() else 0


def to_number(value: Any) -> float | None:
    """A single number of any library as a float, a tensor or array of one element too; None of anything else."""
    size = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    if size == 1 and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, Real) else None


def _rebuild_like(tree: Any, values: Iterable[Any]) -> Any:
    """Return ``values`` as a list or tuple of ``tree``'s type."""
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def can_be_made(root: nn.Module, key: str) -> bool:
    """Whether the buffer ``key`` may be missing in ``root`` before a state that has it is loaded.

    A module on the way to it has ``fit_to``: see the hook ``adapt``.
    """
    return any(callable(getattr(module, "fit_to", None)) for module in _list_owners(root, key))


def can_be_resized(root: nn.Module, key: str) -> bool:
    """Whether the buffer ``key`` of ``root`` may have another shape than in the state that is loaded.

    Its module then loads it in a way of its own, as observers of torch's quantization do, or one on the way to it has
    ``fit_to`` or a hook before loading.
    """
    owners = list(_list_owners(root, key))
    last = owners[-1]
    plain = isinstance(last, _NormBase) or type(last)._load_from_state_dict is nn.Module._load_from_state_dict
    return not plain or can_be_made(root, key) or any(module._load_state_dict_pre_hooks for module in owners)


def _list_owners(root: nn.Module, key: str) -> Iterator[nn.Module]:
    """The modules on the way from ``root`` to the tensor ``key``, both ends included."""
    module: nn.Module = root
    yield module
    for name in key.split(".")[:-1]:
        found = module._modules.get(name)
        if found is None:
            return
        module = found
        yield module
