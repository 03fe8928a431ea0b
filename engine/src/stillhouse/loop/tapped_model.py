"""The one way to call a model: under its precision, as its task calls it, with the output read and layers tapped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from stillhouse.contract.layers import Which, match_layers
from stillhouse.contract.sealed import Features
from stillhouse.contract.step import SealedSide, Side
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.loop.taps import Taps
from stillhouse.outputs import find_reader

__all__ = ["TappedModel"]


class TappedModel:
    """A model that answers a batch with a :class:`stillhouse.contract.step.Side`.

    The first call in each mode, train and eval, settles how the output of interest is got from what the model returns. As
    a context manager it takes its taps off the model at the end.

    Args:
        model: on ``device``.
        name: ``student``, ``teacher`` or a further teacher's, for messages.
        task: which calls the model.
        layers: the layers to read, dotted paths.
        device: where the model is.
        precision: dtype of its forward pass, whatever autocast is on around the call; anything but float32 is autocast.
        frozen: call it without gradient.

    Attributes:
        model: the model; None once it is released.
        call: what calls it, ``call(model, inputs, targets)``: its task, unless :meth:`wrap_call` was called.
        taps: what is read of it.

    Raises:
        StillhouseError: the model is compiled already and has layers to read.
    """

    def __init__(
        self,
        model: nn.Module,
        name: Which,
        task: Task,
        layers: Iterable[str] = (),
        *,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        frozen: bool = False,
    ) -> None:
        self.model: nn.Module | None = model
        self.name: Which = name
        self.precision, self.frozen = precision, frozen
        self.call: Callable[..., Any] = task.call
        self._is_called_plainly = type(task).call is Task.call
        self._device_type = torch.device(device).type
        self._autocast = precision is not torch.float32
        self._reads: dict[bool, Callable[[Any], Any] | None] = {}
        self._convert: Callable[[Side], Side] | None = getattr(model, "stillhouse_convert", None)
        self._gone: list[str] = []
        self.taps = Taps(model, name, layers)

    def __call__(self, inputs: Any, targets: Any = None) -> Side:
        """Output and tapped features for ``inputs``; ``targets`` are for tasks whose models take them in training."""
        output = self.output(inputs, targets)
        taps = self.taps
        side, taps.seen = Side(output, Features(taps.seen)), {}
        side.__class__ = SealedSide
        return side if self._convert is None else self._convert(side)

    def output(self, inputs: Any, targets: Any = None) -> Any:
        """The output of interest alone; what the taps read stays with them.

        Raises:
            StillhouseError: the model has left memory, or returns what has no output of interest.
        """
        if self.frozen and torch.is_grad_enabled():
            # no_grad and not inference_mode: a trainable projection of the features saves them for backward.
            with torch.no_grad():
                return self.output(inputs, targets)
        model = self.model
        if model is None:
            raise StillhouseError("has left memory, and no plugin gives what it gives", where=self.name)
        # Entering autocast takes longer than the look whether it is needed.
        if self._autocast or torch.is_autocast_enabled(self._device_type):
            with torch.autocast(self._device_type, dtype=self.precision, enabled=self._autocast):
                output = self.call(model, inputs, targets)
        elif self._is_called_plainly:
            output = model(inputs)
        else:
            output = self.call(model, inputs, targets)
        mode = model.training
        if mode not in self._reads:
            self._reads[mode] = find_reader(output, self.name)
        read = self._reads[mode]
        return output if read is None else read(output)

    def wrap_call(self, wrap: Callable[[Callable[..., Any] | None], Any]) -> None:
        """Have ``wrap(call)`` call the model, ``call`` being its task's or None; its ``remove()`` is called with the taps'."""
        self.call, self._is_called_plainly = wrap(None if self._is_called_plainly else self.call), False
        self.taps.handles.append(self.call)

    def with_model(self, model: nn.Module) -> TappedModel:
        """The way to call ``model`` as this one is called, its output read alike, without taps."""
        made = copy.copy(self)
        made.model, made.taps, made._reads = model, Taps(model, self.name, ()), dict(self._reads)
        made._convert = getattr(model, "stillhouse_convert", None)
        return made

    def match(self, pattern: str) -> list[str]:
        """The tapped layers that the path or glob ``pattern`` matches, in the model's order; a model that is gone counts.

        Raises:
            StillhouseError: no layer of the model matches, or none of those that do is tapped.
        """
        found = [layer for layer in match_layers(self.names(), self.name, pattern) if layer in self.taps.layers]
        if not found:
            raise StillhouseError(
                f"reads the {self.name}'s layer {pattern!r}, which no tap reads", hint="name it in add_taps"
            )
        return found

    def names(self) -> list[str]:
        """The dotted paths of the model's layers."""
        return self._gone if self.model is None else [name for name, _ in self.model.named_modules()]

    def release(self) -> None:
        """Let go of the model, and take the taps off it."""
        self.taps.remove()
        self._gone, self.model = self.names(), None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taps.remove()
