"""What a checkpoint holds of a run: the state of each of its parts, copied, so that training goes on while it is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse import seeds as rng
from stillhouse.contract.run import Run
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import fit_state, gather_tensors, spread_optimizer_state
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.models.checkpoint_file import find_unreadable
from stillhouse.models.weights import load_state

__all__ = ["RunState"]

WEIGHTS = ("model", "ema")
"""The parts that a student is loaded from: all that the best checkpoint has."""


class RunState:
    """The parts of a run that have a state, by the names that they have in a checkpoint.

    Args:
        run: whose composition and trainer are parts of it.
        parts: what else belongs into a checkpoint: the optimizer, and whatever of a run has a state of its own.
        own: likewise, but the engine's own, whose state can be read back for certain.
    """

    def __init__(self, run: Run, parts: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        self._composition = run.composition
        whole = {key: _Whole(part) if isinstance(part, Optimizer) else part for key, part in parts.items()}
        self._open = {"model": _Whole(run.composition), **whole, "trainer": run.trainer}
        self._parts = {**self._open, "generators": _Generators(), **own}

    def copy(self) -> dict[str, Any]:
        """The state of every part, copied to the host. All processes must call it; those that do not write get nothing."""
        seen: dict[Any, tuple[Tensor, Tensor]] = {}
        copied = {}
        for key, part in self._parts.items():
            state = part.state_dict()
            if parallel.is_first():
                copied[key] = _copy_to_host(state, seen)
        return copied

    def refuse_unreadable(self, copied: Mapping[str, Any] | None = None) -> None:
        """Refuse what could be written and never be read back.

        Args:
            copied: what :meth:`copy` gave; None looks at the state as it is now.

        Raises:
            StillhouseError: it names the keys.
        """
        raise_faults(
            Fault(
                f"checkpoints: {name}",
                f"{key!r} is a {kind}, and a checkpoint with it could be written but never read",
                "state is tensors, numbers, texts, and lists and dicts of them",
            )
            for name, part in self._open.items()
            for key, kind in find_unreadable(
                copied[name] if copied else (part.inner if isinstance(part, _Whole) else part).state_dict()
            )
        )

    def load(self, saved: Mapping[str, Any], where: str) -> None:
        """Bring every part back to what ``saved``, which was read at ``where``, has of it.

        Raises:
            StillhouseError: a part is missing, or does not fit.
        """
        missing = [key for key in self._parts if key not in saved]
        if missing:
            hint = "it must be a checkpoint of this run"
            raise StillhouseError(f"lacks {', '.join(missing)}", where=where, hint=hint)
        for key, part in self._parts.items():
            if key == "model":
                load_state(self._composition, saved[key], where)
                continue
            try:
                part.load_state_dict(saved[key])
            except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
                raise StillhouseError(f"its {key} does not fit this run: {error}", where=where) from error


class _Generators:
    """The global generators of every process, as an object with a state."""

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {f"rank{rank}": state for rank, state in enumerate(parallel.gather_objects(rng.capture()))}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        own = state.get(f"rank{idist.get_rank()}")
        if own is not None:  # with more processes than before, the new ones keep their own beginning
            rng.restore(own)


class _Whole:
    """Something with a state whose tensors may be spread over the processes: saved whole, loaded spread again."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = gather_tensors(self.inner.state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.inner, nn.Module):
            self.inner.load_state_dict(fit_state(state, self.inner.state_dict()))
            return
        self.inner.load_state_dict(dict(state))
        if isinstance(self.inner, Optimizer):
            spread_optimizer_state(self.inner)


def _copy_to_host(value: Any, seen: dict[Any, tuple[Tensor, Tensor]]) -> Any:
    """A copy that shares nothing with ``value``; tensors that are one in it, as tied weights are, are one in the copy.

    ``seen`` has each tensor beside its copy: one that was let go of would leave its address to another.
    """
    if isinstance(value, Tensor):
        plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device) if plain else id(value)
        if key not in seen:
            whole = value.detach()
            seen[key] = value, whole.clone() if whole.device.type == "cpu" else whole.cpu()
        return seen[key][1]
    if isinstance(value, dict):
        copied = copy.copy(value)  # of its own type, with what it carries besides its entries
        for name, inner in value.items():
            copied[name] = _copy_to_host(inner, seen)
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copy_to_host(inner, seen) for inner in value)
    return copy.deepcopy(value)
