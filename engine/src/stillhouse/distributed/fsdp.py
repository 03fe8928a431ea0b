"""Parameters spread over the processes with torch's FSDP2 (``fully_shard``), for models that one GPU cannot hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.nested import map_tensors

__all__ = [
    "clip",
    "fit_state",
    "gather_model",
    "gather_tensors",
    "is_sharded",
    "reshard",
    "shard",
    "spread_like",
    "spread_optimizer_state",
    "spreads_on_cpu",
    "to_local",
    "to_whole",
]

_outlines: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""Spread students as the plain modules that they were, without memory for parameters; each as long as its student lives."""

_BLOCK = 1 << 16
"""Blocks of fewer parameters are not worth a gathering of their own; they go with what is around them."""


def shard(model: nn.Module, device: torch.device, where: str) -> None:
    """Spread ``model``'s parameters over all processes, in place; dotted paths stay as they are.

    Every block (a child of a ``Sequential`` or ``ModuleList``) is gathered by itself when it is called, the rest with
    the whole model.

    Args:
        model: on the CPU or on ``device``; its parameters move to ``device`` block by block.
        device: this process's.
        where: ``student`` or ``teacher``, for messages. Of a student the outline is kept, for :func:`gather_model`.

    Raises:
        StillhouseError: there is one process only, or torch is too old to spread over processes without a GPU.
    """
    if not parallel.is_distributed():
        raise StillhouseError(
            "there is one process, and nothing to spread over",
            where="distributed.shard",
            hint=f"start several with torchrun, or leave the {where} whole",
        )
    if device.type == "cpu" and not spreads_on_cpu():
        what = f"torch spreads a model over processes on a CPU from version 2.7 on, and this is {torch.__version__}"
        raise StillhouseError(what, where="distributed.shard", hint=f"leave the {where} whole")
    if where == "student":
        _outlines[model] = _copy_without_values(model, "meta")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for container in reversed(list(model.modules())):  # from the inside out, as fully_shard wants it
        if isinstance(container, nn.Sequential | nn.ModuleList):
            for block in container:
                if sum(p.numel() for p in block.parameters()) >= _BLOCK:
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to(device)  # buffers


def spreads_on_cpu() -> bool:
    """Whether torch's FSDP2 works without a GPU: it asks for events of a stream, which a CPU's has since torch 2.7."""
    return hasattr(torch.cpu.Stream, "record_event")


def is_sharded(model: nn.Module | None) -> bool:
    """Whether ``model``'s parameters are spread over the processes."""
    return isinstance(model, FSDPModule)


def gather_model(model: nn.Module) -> nn.Module:
    """Gather a spread student into a plain module on the CPU, with its present weights; other modules are returned."""
    if not is_sharded(model):
        return model
    plain = _copy_without_values(_outlines[model], "cpu")
    plain.load_state_dict(gather_tensors(model.state_dict()))
    return plain


def _copy_without_values(model: nn.Module, device: str) -> nn.Module:
    """Copy ``model`` with parameters on ``device`` whose values are undefined; shared ones stay shared."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo=empty)


def reshard(model: nn.Module | None) -> None:
    """Spread parameters again that a forward pass without a backward pass has left gathered.

    FSDP2 keeps the outermost parameters whole until the backward pass: who takes ``parameters()`` in between, an
    optimizer say, gets tensors whose memory is freed later.
    """
    if isinstance(model, FSDPModule):
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def to_local(tensor: Tensor) -> Tensor:
    """Return this process's part of a spread tensor; any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def to_whole(tensor: Tensor) -> Tensor:
    """A spread tensor gathered, on its device, in which all processes take part; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_tensors(value: Any) -> Any:
    """Gather every spread tensor in the dicts and lists of ``value``, on the CPU. All processes must call it."""
    return map_tensors(lambda x: x.full_tensor().cpu(), value, DTensor)


def fit_state(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Spread whole tensors as in ``own``, by key; for ``load_state_dict``."""
    fitted = dict(saved)
    for key, tensor in own.items():
        if isinstance(tensor, DTensor) and isinstance(saved.get(key), Tensor):
            fitted[key] = spread_like(saved[key], tensor)
    return fitted


def spread_like(tensor: Tensor, other: DTensor) -> DTensor:
    """A whole tensor spread as ``other`` is; its values are those of the first process."""
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def spread_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Spread each parameter's optimizer state as the parameter is, after ``load_state_dict`` of whole tensors."""
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for key, value in state.items():
                if isinstance(value, Tensor) and not isinstance(value, DTensor) and value.shape == parameter.shape:
                    state[key] = spread_like(value, parameter)


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients of ``parameters`` down, in place, where their Euclidean norm is above ``max_norm``.

    Returns:
        The norm of all of them together before that, a scalar on the device; spread ones count whole.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    # torch's functions take either kind, and not both at once.
    kinds = [[p for p in with_gradient if isinstance(p, DTensor) is spread] for spread in (False, True)]
    norms = []
    for kind in filter(None, kinds):
        norm = torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not norms:
        return torch.zeros(())
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in filter(None, kinds):
        torch.nn.utils.clip_grads_with_norm_(kind, max_norm, total)
    return total
