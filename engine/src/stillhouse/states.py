"""The tensors of a module's state: which of them may take another shape when a state is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["can_be_made", "can_be_resized"]


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
