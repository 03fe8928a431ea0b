"""torch's fused kernels for the optimizer's step on a CPU: one pass over each parameter, without Python in between.

They take a third of the time of torch's own choice there, a loop over operations, for SGD, and a fifth for AdamW. They walk through
a parameter, its gradient and its moments as these lie in memory, and look at no stride: where one lies in another order than the
parameter, they pair the wrong numbers and say nothing. So all are laid as their parameter here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape

__all__ = ["choose_fused", "keep_layouts"]

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


def keep_layouts(optimizer: Optimizer) -> None:
    """Lay gradients as their parameters before each step, and moments after each loading.

    Gradients of a backward pass lie so already; those that a plugin or a callback puts into ``.grad`` may not, nor
    moments of a checkpoint from a run with another memory format.

    Raises:
        StillhouseError: a recipe has asked for the fused kernel, and a parameter has gaps in memory, over which it would walk.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if not isinstance(p, DTensor)]
    gaps = next((p for p in parameters if not _is_in_one_piece(p)), None)
    if gaps is not None:
        raise StillhouseError(
            f"the fused kernel needs parameters in one piece, and one of shape {format_shape(gaps)} has the strides {gaps.stride()}",
            where="optimizer.args.fused",
            hint="fused = false, or a parameter that is made by .contiguous()",
        )
    layouts = [(p, p.stride()) for group in optimizer.param_groups for p in group["params"] if p.dim() > 1]

    def lay_gradients(*_: Any) -> None:
        for parameter, stride in layouts:
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != stride:
                parameter.grad = _lay(gradient, parameter)

    def lay_moments(_: Optimizer) -> None:
        for parameter, stride in layouts:
            state = optimizer.state.get(parameter, {})
            for key, value in _tensors(state.items()):
                if value.shape == parameter.shape and value.stride() != stride:
                    state[key] = _lay(value, parameter)

    optimizer.register_step_pre_hook(lay_gradients)
    optimizer.register_load_state_dict_post_hook(lay_moments)


def _tensors(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in pairs if isinstance(value, Tensor)]


def _lay(value: Tensor, parameter: Tensor) -> Tensor:
    """``value``, in the memory order of ``parameter``."""
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
