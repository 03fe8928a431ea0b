"""Pairs of a convolution and the batch normalisation that alone reads it, with the ReLU after: what is folded, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stillhouse.nested import count_writes

__all__ = ["NormPair", "find_pairs", "list_hooks"]

_CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class NormPair:
    """A convolution, the normalisation that alone reads it, and what takes their place while ``whole`` is active.

    What the convolution gives folded must reach the normalisation, and that its ReLU: ``whole.pending`` counts what is on its way.

    Args:
        conv: of one, two or three dimensions.
        norm: in eval mode, with statistics.
        relu: one that alone reads ``norm``, or None.
        whole: says by ``active`` whether the folded weight counts; None: never.
    """

    __slots__ = ("_convolve", "bias", "conv", "given", "norm", "passed", "relu", "weight", "whole")

    def __init__(self, conv: nn.Module, norm: nn.Module, relu: nn.Module | None = None, whole: Any = None) -> None:
        self.conv: Any = conv
        self.norm: Any = norm
        self.relu: Any = relu
        self.whole = whole
        self.weight: Any = None
        self.bias: Any = None
        self.given: Tensor | None = None
        self.passed: Tensor | None = None
        self._convolve = _CONVOLUTIONS[type(conv)]

    # Their arguments are called as torch calls them, for whoever calls a layer by keyword.

    def convolve(self, input: Tensor) -> Tensor:  # noqa: A002
        """In the place of the convolution's forward."""
        conv, whole = self.conv, self.whole
        if whole is None or not whole.active:
            found: Tensor = type(conv).forward(conv, input)
            return found
        whole.pending += 1
        found = self._convolve(input, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        self.given = found
        return found

    def normalise(self, input: Tensor) -> Tensor:  # noqa: A002
        """In the place of the normalisation's: hand on what this convolution has just given."""
        if input is self.given:
            self.given = None
            if self.relu is None:
                self.whole.pending -= 1
            else:
                self.passed = input  # which takes it: what nobody takes would stay in memory until the next call
            return input
        found: Tensor = type(self.norm).forward(self.norm, input)
        return found

    def rectify(self, input: Tensor) -> Tensor:  # noqa: A002
        """In the place of the ReLU's: write over what this normalisation has just handed on."""
        passed = self.passed
        if passed is None:
            return torch.relu(input)
        self.passed = None
        self.whole.pending -= 1
        return torch.relu_(input) if input is passed else torch.relu(input)

    def forget(self) -> None:
        """Let go of what was on its way in a call that has ended."""
        self.given = self.passed = None

    def attach(self) -> None:
        """Take the place of the modules' forwards."""
        self.conv.forward, self.norm.forward = self.convolve, self.normalise
        if self.relu is not None:
            self.relu.forward = self.rectify

    def leave_relu(self) -> bool:
        """Have the ReLU compute as ever; whether it did otherwise."""
        relu, self.relu = self.relu, None
        return relu is not None and _take_off(relu, self.rectify)

    def detach(self) -> None:
        """Have the modules compute as ever; one whose forward is somebody else's by now keeps that."""
        self.leave_relu()
        _take_off(self.conv, self.convolve)
        _take_off(self.norm, self.normalise)

    def read(self) -> list[Tensor]:
        """All that the folded weight is made of, and what counts torch's own writes into statistics, which it tells nobody of."""
        conv, norm = self.conv, self.norm
        own = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return [x for x in (*own, norm.num_batches_tracked) if x is not None]

    def fold(self) -> tuple[Tensor, Tensor]:
        """The convolution's weight and bias with the normalisation in them, computed in float64."""
        conv, norm = self.conv, self.norm
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        scale = (variance + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        bias = (0.0 if conv.bias is None else conv.bias.double()) - mean
        bias = bias * scale + (0.0 if norm.bias is None else norm.bias.double())
        weight = conv.weight.double() * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
        return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return NormPair, (self.conv, self.norm, self.relu)  # a copy of the model is the model as it was


def find_pairs(model: nn.Module, call: Callable[[], Any]) -> list[tuple[str, nn.Module, nn.Module, nn.Module | None]]:
    """Convolutions, each by name with the normalisation that is given what it gave, and the ReLU after; each is called once."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[nn.Module, list[tuple[Any, int]]] = {}
    given: dict[nn.Module, list[tuple[Any, int]]] = {}

    def note_made(module: nn.Module, _inputs: Any, output: Any) -> None:
        made.setdefault(module, []).append((output, count_writes(output)))

    def note_given(module: nn.Module, inputs: Any) -> None:
        given.setdefault(module, []).append((inputs[0], count_writes(inputs[0])) if inputs else (None, 0))

    handles = []
    for module in names:
        # A forward of a run that was never closed, or of another one on this model, counts as the module's own.
        forward = vars(module).get("forward")
        tensors = (*module.parameters(), *module.buffers())
        if any(list_hooks(module)) or not (forward is None or _is_of_a_pair(forward)) or not all(map(_fits, tensors)):
            continue
        if type(module) in _CONVOLUTIONS and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(note_made))
        elif type(module) in _NORMS and not module.training and module.running_mean is not None:
            handles += [module.register_forward_pre_hook(note_given), module.register_forward_hook(note_made)]
        elif type(module) is nn.ReLU and not module.inplace:
            handles.append(module.register_forward_pre_hook(note_given))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    once = {id(calls[0][0]): (module, calls[0]) for module, calls in made.items() if len(calls) == 1}
    before = {}
    for reader, calls in given.items():
        maker, (output, version) = once.get(id(calls[0][0]), (None, (None, 0)))
        if maker is not None and len(calls) == 1 and calls[0][0] is output and calls[0][1] == version:
            before[reader] = maker
    relus = {norm: reader for reader, norm in before.items() if type(reader) is nn.ReLU}
    pairs = [(conv, norm) for norm, conv in before.items() if type(conv) in _CONVOLUTIONS and type(norm) in _NORMS]
    return [(names[conv], conv, norm, relus.get(norm)) for conv, norm in pairs]


def _fits(own: Tensor) -> bool:
    """Whether a module's parameter or buffer can be folded; a count is no float."""
    kinds = (torch.float32, torch.int64)
    return own.dtype in kinds and not own.is_inference() and not isinstance(own, DTensor)


def _is_of_a_pair(forward: Any) -> bool:
    return isinstance(getattr(forward, "__self__", None), NormPair)


def _take_off(module: nn.Module, forward: Callable[..., Tensor]) -> bool:
    """Give ``module`` its class's forward again, if it has ``forward`` now; whether it had."""
    has = vars(module).get("forward") == forward
    if has:
        del module.forward
    return has


def list_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """The tables of what listens to a module's calls."""
    return [module._forward_hooks, module._forward_pre_hooks]
