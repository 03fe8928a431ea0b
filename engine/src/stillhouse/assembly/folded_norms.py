"""A frozen model's batch normalisations, folded into the convolutions before them: one pass less over each map.

In eval mode BatchNorm is an affine map of each channel, g (y - m) / sqrt(v + eps) + b, which a convolution's weight and bias can
take in. What the model holds stays as it is: parameters, buffers, modules, paths. For the length of one call of the run's own
the convolution computes with the folded weight, and the normalisation hands on what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules import module as modules

from stillhouse import seeds as rng
from stillhouse.assembly.snapshot import unchanged
from stillhouse.errors import StillhouseError
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.loop.taps import Taps
from stillhouse.nested import list_tensors

__all__ = ["FoldedNorms", "fold_norms"]

_CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TOLERANCE = 1e-4  # of the greatest value; folding moves a float32 answer by some 1e-6 of it
_GREATEST_CHANGES = 3  # of weights; a model that changes more often is not frozen


def fold_norms(tapped: TappedModel, inputs: Any) -> FoldedNorms | None:
    """Have the frozen model of ``tapped`` called with its batch normalisations folded, until its taps are taken off.

    Args:
        tapped: the model's one way to be called, with its taps.
        inputs: a batch on its device, to find the pairs with, and to compare the answers.

    Returns:
        What calls it now; None where there is nothing to fold: no such pair, another precision than float32, hooks that
        would see other numbers, or answers that differ by more than rounding.
    """
    model = tapped.model
    if model is None or tapped.precision is not torch.float32:
        return None
    with torch.no_grad(), rng.preserve_state(), unchanged(model):
        pairs = _find_pairs(model, lambda: tapped.output(inputs))
        tapped.taps.take()
        if not pairs:
            return None
        folded = FoldedNorms(pairs, tapped.taps, tapped.name)
        tapped.wrap_call(folded.around)
        agree = folded.prove(model, inputs, None)
    if not agree:
        folded.remove()
        return None
    folded.note_versions()  # putting buffers back is writing into them
    return folded


class _Pair:
    """A convolution, the normalisation that alone reads it, and what takes their place within a call of ``whole``'s."""

    __slots__ = ("_convolve", "bias", "conv", "given", "norm", "weight", "whole")

    def __init__(self, conv: nn.Module, norm: nn.Module, whole: FoldedNorms | None = None) -> None:
        self.conv: Any = conv
        self.norm: Any = norm
        self.whole = whole
        self.weight: Any = None
        self.bias: Any = None
        self.given: Tensor | None = None
        self._convolve = _CONVOLUTIONS[type(conv)]

    def convolve(self, x: Tensor) -> Tensor:
        if self.whole is None or not self.whole.active:
            found: Tensor = type(self.conv).forward(self.conv, x)
            return found
        conv = self.conv
        found = self._convolve(x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        self.given = found
        return found

    def normalise(self, x: Tensor) -> Tensor:
        given, self.given = self.given, None
        if x is given:
            return x
        found: Tensor = type(self.norm).forward(self.norm, x)
        return found

    def read(self) -> list[Tensor]:
        """All that the folded weight is made of."""
        own = (self.conv.weight, self.conv.bias, self.norm.weight, self.norm.bias)
        return [x for x in (*own, self.norm.running_mean, self.norm.running_var) if x is not None]

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
        return _Pair, (self.conv, self.norm)  # a copy of the model is the model as it was


class FoldedNorms:
    """Calls a frozen model with its batch normalisations folded.

    Before each call it looks whether anything has been written into what it has folded, and folds again; whether somebody's hook
    listens at one of the modules, or one is in train mode: then the call is a plain one.

    Attributes:
        count: how many are folded.
        heeds_hooks: whether a hook that listens at one of the modules has the call be a plain one.
        active: whether a call is going on in which they are.
    """

    def __init__(self, pairs: Sequence[tuple[str, nn.Module, nn.Module]], taps: Taps, model: str) -> None:
        self.active, self.heeds_hooks = False, True
        self.count = len(pairs)
        self._taps, self._model = taps, model
        self._names = [name for name, _, _ in pairs]
        self._pairs = [_Pair(conv, norm, self) for _, conv, norm in pairs]
        self._norms = [pair.norm for pair in self._pairs]
        self._hooks = [hooks for pair in self._pairs for hooks in (_list_hooks(pair.conv) + _list_hooks(pair.norm))]
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._changes = -1  # the first folding is none
        self._call: Callable[..., Any] | None = None
        for pair in self._pairs:
            pair.conv.forward, pair.norm.forward = pair.convolve, pair.normalise

    def around(self, call: Callable[..., Any] | None) -> FoldedNorms:
        """Take the place of ``call(model, inputs, targets)``; None: ``model(inputs)``."""
        self._call = call
        return self

    def __call__(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """What ``model`` answers."""
        heard = any(self._hooks) or modules._global_forward_hooks or modules._global_forward_pre_hooks
        if not self._pairs or (heard and self.heeds_hooks) or True in [norm.training for norm in self._norms]:
            return self._call_plainly(model, inputs, targets)
        if [x._version for x in self._tensors] != self._versions and not self._fold_again(model, inputs, targets):
            return self._call_plainly(model, inputs, targets)
        return self._call_folded(model, inputs, targets)

    def _call_plainly(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        return model(inputs) if self._call is None else self._call(model, inputs, targets)

    def _call_folded(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        self.active = True
        try:
            return model(inputs) if self._call is None else self._call(model, inputs, targets)
        finally:
            self.active = False

    def _fold_again(self, model: nn.Module, inputs: Any, targets: Any) -> bool:
        with torch.no_grad(), rng.preserve_state():
            if self.prove(model, inputs, targets):
                return True
        self.remove()
        return False

    def prove(self, model: nn.Module, inputs: Any, targets: Any) -> bool:
        """Fold what the model holds now, and compare the answers to ``inputs``, and what the taps read, with the plain ones.

        Returns:
            Whether they agree, and the weights have not changed time and again.
        """
        self._changes += 1
        self.note_versions()
        for pair in self._pairs:
            pair.weight, pair.bias = pair.fold()
        if self._changes > _GREATEST_CHANGES:
            return False
        answers = []
        for call in (self._call_plainly, self._call_folded):
            output = call(model, inputs, targets)
            answers.append((list_tensors(output), list_tensors(self._taps.take())))
        (plain, read), (folded, read_folded) = answers
        return bool(plain) and _agree(plain + read, folded + read_folded)

    def note_versions(self) -> None:
        """Take what the modules hold now for what is folded."""
        self._tensors = [x for pair in self._pairs for x in pair.read()]
        self._versions = [x._version for x in self._tensors]

    def check_unchanged(self) -> None:
        """Look at the values themselves, for what was written without autograd's knowledge.

        Raises:
            StillhouseError: through ``.data``, say; it names the layer.
        """
        for name, pair in zip(self._names, self._pairs, strict=True):
            with torch.no_grad():
                now = pair.fold()
            if [x._version for x in self._tensors] != self._versions:
                return  # written into as usual, since the last call: the next one folds again
            if not all(torch.equal(a, b) for a, b in zip(now, (pair.weight, pair.bias), strict=True)):
                raise StillhouseError(
                    f"the layer {name!r} was changed through .data, which nobody hears of, while its normalisation is folded into it",
                    where=self._model,
                    hint="write into the parameter itself under torch.no_grad(), or speed.fold_norms = false",
                )

    def remove(self) -> None:
        """Have the modules compute as ever."""
        for pair in self._pairs:
            del pair.conv.forward, pair.norm.forward
        self._pairs, self._names = [], []


def _find_pairs(model: nn.Module, call: Callable[[], Any]) -> list[tuple[str, nn.Module, nn.Module]]:
    """Convolutions, each by name with the normalisation that is given what it gave; both are called once."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[nn.Module, list[tuple[Any, int]]] = {}
    given: dict[nn.Module, list[tuple[Any, int]]] = {}

    def note_made(module: nn.Module, _inputs: Any, output: Any) -> None:
        made.setdefault(module, []).append((output, getattr(output, "_version", 0)))

    def note_given(module: nn.Module, inputs: Any) -> None:
        given.setdefault(module, []).append((inputs[0], getattr(inputs[0], "_version", 0)) if inputs else (None, 0))

    handles = []
    for module in names:
        if any(_list_hooks(module)) or "forward" in vars(module) or not all(map(_fits, module.parameters())):
            continue
        if type(module) in _CONVOLUTIONS and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(note_made))
        elif type(module) in _NORMS and not module.training and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(note_given))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    once = {id(calls[0][0]): (conv, calls[0]) for conv, calls in made.items() if len(calls) == 1}
    pairs = []
    for norm, calls in given.items():
        conv, (output, version) = once.get(id(calls[0][0]), (None, (None, 0)))
        if conv is not None and len(calls) == 1 and calls[0][0] is output and calls[0][1] == version:
            pairs.append((names[conv], conv, norm))
    return pairs


def _fits(parameter: Tensor) -> bool:
    return parameter.dtype is torch.float32 and not isinstance(parameter, DTensor)


def _list_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """The tables of what listens to a module's calls."""
    return [module._forward_hooks, module._forward_pre_hooks]


def _agree(plain: list[Tensor], folded: list[Tensor]) -> bool:
    """Whether two answers are the same up to rounding."""
    if [x.shape for x in plain] != [x.shape for x in folded]:
        return False
    for a, b in zip(plain, folded, strict=True):
        if a.is_floating_point():
            if not bool(((a - b).abs() <= _TOLERANCE * a.abs().amax()).all()) if a.numel() else False:
                return False
        elif not torch.equal(a, b):
            return False
    return True
