"""Gradient checkpointing: a block's insides are computed again on the way back (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stillhouse.errors import StillhouseError

__all__ = ["checkpoint_gradients", "keep_gradients", "list_blocks"]


def checkpoint_gradients(student: nn.Module) -> str:
    """Have ``student`` recompute its blocks in every backward pass, in place; keys of its state dict stay.

    Returns:
        By which means, in words.

    Raises:
        StillhouseError: it has no such means, and no blocks in a row.
    """
    for name, arguments in (("set_grad_checkpointing", (True,)), ("gradient_checkpointing_enable", ())):
        own = getattr(student, name, None)
        if callable(own):
            try:
                own(*arguments)
            except (
                ValueError,
                AssertionError,
                NotImplementedError,
            ):  # a base class's, which this model does not support
                continue
            return f"{type(student).__name__}.{name}"
    blocks = list_blocks(student)
    if not blocks:
        raise StillhouseError(
            f"{type(student).__name__} has no blocks in a row, and no set_grad_checkpointing of its own",
            where="speed.checkpoint_gradients",
            hint="leave it out, or [run] accumulate: less memory for the same gradient",
        )
    for block in blocks.values():
        block.forward = _Recomputed(block, block.forward)
    return f"torch around {len(blocks)} blocks, {next(iter(blocks))} to {list(blocks)[-1]}"


def keep_gradients(student: nn.Module) -> None:
    """Take torch's checkpoints off ``student``; its own means stay as they are, since they do nothing outside training."""
    for module in student.modules():
        if isinstance(vars(module).get("forward"), _Recomputed):
            del module.forward


def list_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model by their paths: children of Sequentials and ModuleLists that have parts of their own.

    Outermost ones alone: a block inside another is recomputed with it. A container of one-layer children is no row of
    blocks, but a block.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList) or any(name.startswith(f"{path}.") for path in found):
            continue
        children = {f"{name}.{key}" if name else key: child for key, child in module.named_children()}
        if sum(1 for child in children.values() if any(True for _ in child.children())) < 2:
            continue
        found |= {path: child for path, child in children.items() if next(child.parameters(), None) is not None}
    return found


class _Recomputed:
    """A block's forward under torch's checkpoint, where there will be a backward pass."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self._block, self._forward = block, forward

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not (torch.is_grad_enabled() and self._block.training):
            return self._forward(*inputs, **options)
        contexts = partial(_make_contexts, self._block)
        return checkpoint(self._forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _make_contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _KeptStatistics(block)


class _KeptStatistics(AbstractContextManager["_KeptStatistics"]):
    """BatchNorm normalises by the batch, and its running statistics do not move a second time.

    It can be entered again: two backward passes through one graph, as looks at single terms are, recompute twice.
    """

    def __init__(self, block: nn.Module) -> None:
        modules = block.modules()
        self._norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._kept: list[tuple[_BatchNorm, float | None, Tensor | None]] = []

    def __enter__(self) -> _KeptStatistics:
        self._kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm, _, counted in self._kept:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counted is None else counted.clone()
        return self

    def __exit__(self, *_error: object) -> None:
        for norm, momentum, counted in self._kept:
            norm.momentum, norm.num_batches_tracked = momentum, counted
