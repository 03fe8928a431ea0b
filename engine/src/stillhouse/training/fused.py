"""torch's fused kernels for the optimizer's step on a CPU: one pass over each parameter, without Python in between.

They take a third of the time of torch's own choice there, a loop over operations, for SGD, and a fifth for AdamW. They walk through
a parameter, its gradient and its moments as these lie in memory, and look at no stride: where one lies in another order than the
parameter, they pair the wrong numbers and say nothing. So all are laid as their parameter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape

__all__ = ["choose_fused", "take_fused_steps"]

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
_CHOICES = ("fused", "foreach", "differentiable", "capturable")


def choose_fused(
    cls: type[Optimizer], args: Mapping[str, Any], model: nn.Module, precision: str = "float32"
) -> dict[str, Any]:
    """``{"fused": True}`` where the fused kernel of ``cls`` fits all that ``model`` trains; empty otherwise.

    A recipe that has chosen its kernels keeps them; on a GPU torch chooses.

    Args:
        cls: the optimizer's class; one that is somebody's own, or derived, is left alone.
        args: what it will be called with.
        model: all that is trained.
        precision: the run's. With float16 torch's scaler calls a fused optimizer in a step that is left out, too, and whoever hooks
            into its steps counts one too many.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fits = (
        cls in _FUSED
        and precision != "float16"
        and not any(key in args for key in _CHOICES)
        and all(_fits(parameter) for parameter in trained)
        and not any(getattr(module, "sparse", False) is True for module in model.modules())  # an embedding's gradient
    )
    return {"fused": True} if fits else {}


def _fits(parameter: Tensor) -> bool:
    """On the CPU, real, in one piece."""
    return (
        parameter.device.type == "cpu"
        and parameter.is_floating_point()
        and not isinstance(parameter, DTensor)
        and _is_in_one_piece(parameter)
    )


def _is_in_one_piece(parameter: Tensor) -> bool:
    """Whether a tensor has no gaps in memory: torch.empty_like keeps the strides of such a one, and of no other."""
    return torch.empty_like(parameter).stride() == parameter.stride()


def take_fused_steps(optimizer: Optimizer) -> None:
    """Have each step of ``optimizer``, whose kernel is fused, go right and without detours; see :class:`_FusedStep`.

    Raises:
        StillhouseError: a recipe has asked for the fused kernel, and a parameter has gaps in memory, over which it would walk.
    """
    made = _FusedStep(optimizer)
    # A bound method as torch's own: a scheduler of torch's that somebody attaches wraps it as one.
    setattr(optimizer, "step", MethodType(lambda _, closure=None: made(closure), optimizer))  # noqa: B010 - mypy knows a method


class _FusedStep:
    """An optimizer's step with the fused kernel, in the place of its ``step``.

    Gradients are laid as their parameters before each step, and moments after each loading: those of a backward pass lie so
    already, those that a plugin or a callback puts into ``.grad`` may not, nor moments of a checkpoint from a run with another
    memory format. A parameter whose first gradient comes after the first step gets its momentum, which torch's fused SGD
    forgets to give it. And parameter groups whose options agree are stepped as one: for each, torch goes through some
    twenty functions of Python.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._step = optimizer, optimizer.step
        self._options = itemgetter(*optimizer.defaults)
        self._groups: list[tuple[int, bool]] = []
        self._parameters: list[Tensor] = []
        self._strides: list[tuple[int, ...]] = []
        self._without_momentum: list[tuple[Tensor, dict[str, Any]]] = []
        self._look()
        optimizer.register_load_state_dict_post_hook(self._lay_moments)

    def _look(self) -> None:
        """Find out how the parameters lie, and which of them have no momentum yet."""
        groups = self._optimizer.param_groups
        self._groups = _describe(groups)
        self._parameters = [p for group in groups for p in group["params"]]
        for parameter in self._parameters:
            if not isinstance(parameter, DTensor) and not _is_in_one_piece(parameter):
                raise StillhouseError(
                    f"the fused kernel needs parameters in one piece, and one of shape {format_shape(parameter)} has the strides {parameter.stride()}",
                    where="optimizer.args.fused",
                    hint="fused = false, or a parameter that is made by .contiguous()",
                )
        self._strides = [p.stride() for p in self._parameters]
        state, takes = self._optimizer.state, isinstance(self._optimizer, torch.optim.SGD)
        self._without_momentum = [
            (p, group)
            for group in groups
            for p in group["params"]
            if takes and group["momentum"] and state.get(p, {}).get("momentum_buffer") is None
        ]

    def __call__(self, closure: Callable[[], float] | None = None) -> float | None:
        optimizer = self._optimizer
        groups = optimizer.param_groups
        if not groups[0]["fused"]:
            return self._step(closure)
        if _describe(groups) != self._groups:
            self._look()  # somebody has added a group, or given it momentum
        for parameter, stride in zip(self._parameters, self._strides, strict=True):
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != stride:
                if gradient.layout is not torch.strided:
                    return self._leave(closure)
                if parameter.stride() != stride:
                    self._lay_moments(optimizer)  # somebody has laid the model anew, and gradients lie as it does
                    return self(closure)
                parameter.grad = _lay(gradient, parameter)
        if self._without_momentum:
            self._give_momentum()
        loss = self._step_together(closure)
        # The kernels write without autograd's knowledge: whoever counts writes, to refuse a stale tensor, would see none.
        torch.autograd.graph.increment_version(self._parameters)
        return loss

    def _step_together(self, closure: Callable[[], float] | None) -> float | None:
        """torch's step, with the groups as one where that makes no difference to anybody."""
        optimizer = self._optimizer
        groups = optimizer.param_groups
        listening = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        listening = listening or optimizers._global_optimizer_pre_hooks or optimizers._global_optimizer_post_hooks
        if closure is not None or len(groups) == 1 or listening:
            return self._step(closure)
        options = self._options(groups[0])
        for group in groups:
            if self._options(group) != options:
                return self._step()
        optimizer.param_groups = [{**groups[0], "params": [p for group in groups for p in group["params"]]}]
        try:
            return self._step()
        finally:
            optimizer.param_groups = groups

    def _leave(self, closure: Callable[[], float] | None) -> float | None:
        """From now on torch's loop: the kernel takes no sparse gradients, such as ``F.embedding(..., sparse=True)`` gives."""
        for group in self._optimizer.param_groups:
            group["fused"] = False
        return self._step(closure)

    def _give_momentum(self) -> None:
        """Momentum to what has its first gradient now, such that the step makes it that gradient, as torch's loop does."""
        begin = [(p, group) for p, group in self._without_momentum if p.grad is not None]
        self._without_momentum = [(p, group) for p, group in self._without_momentum if p.grad is None]
        for parameter, group in begin:
            if self._optimizer.state[parameter].get("momentum_buffer") is not None:
                continue  # a step that brought its own gradient, from a closure, has made it
            momentum = torch.zeros_like(parameter)
            if group["dampening"] and parameter.grad is not None:
                momentum.add_(parameter.grad, alpha=-1.0 if group["maximize"] else 1.0)
                momentum.add_(parameter.detach(), alpha=group["weight_decay"])
                momentum.mul_(group["dampening"] / group["momentum"])
            self._optimizer.state[parameter]["momentum_buffer"] = momentum

    def _lay_moments(self, optimizer: Optimizer) -> None:
        self._look()
        for parameter, stride in zip(self._parameters, self._strides, strict=True):
            state = optimizer.state.get(parameter, {})
            for key, value in _tensors(state.items()):
                if value.shape == parameter.shape and value.stride() != stride:
                    state[key] = _lay(value, parameter)


def _describe(groups: Iterable[Mapping[str, Any]]) -> list[tuple[int, bool]]:
    """How many parameters each group has, and whether it has momentum: a scheduler may move that in each step."""
    return [(len(group["params"]), bool(group.get("momentum"))) for group in groups]


def _tensors(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in pairs if isinstance(value, Tensor)]


def _lay(value: Tensor, parameter: Tensor) -> Tensor:
    """``value``, in the memory order of ``parameter``."""
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
