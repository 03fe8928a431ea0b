"""Gradients on their way to the optimizer: taken term by term for a plugin that combines them, and cleared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from stillhouse.contract.protocols import Composed
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import spread_like, to_whole
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.loop.phases import note_place
from stillhouse.registry.hooks import Call

__all__ = ["TermGradients", "make_zero_grad"]

_HOOK = "combine_gradients"
_WANTED = "a list with one tensor, or None, for each of step.parameters"


class TermGradients:
    """Takes each weighted term's own gradient, and has a plugin make one of them all.

    Every term goes backward by itself, through ``backward()`` and ``.grad``: ``torch.autograd.grad`` gives nothing for
    parameters that FSDP2 spreads, and is refused by reentrant checkpointing. The forward pass must not be one that DDP
    synchronises.

    Args:
        composition: complete; what of it is trained now is what the gradients are aligned with.
        call: the plugin, and its ``combine_gradients``.
        scaler: scales float16 losses.
    """

    def __init__(self, composition: Composed, call: Call, scaler: torch.amp.GradScaler) -> None:
        composition.trained = tuple((name, p) for name, p in composition.named_parameters() if p.requires_grad)
        self._names = [name for name, _ in composition.trained]
        self._parameters: list[nn.Parameter] = [parameter for _, parameter in composition.trained]
        self._plugin, self._combine = call
        self._scaler = scaler
        self._sums: dict[str, list[Tensor | None]] = {}

    def backward(self, step: Step) -> None:
        """Take the gradients of a part's terms, and add them to those of the parts before.

        A term that is a constant here has none.
        """
        terms = dict(_weigh_terms(step))
        last = next((name for name in reversed(terms) if terms[name].requires_grad), "")
        for name, value in terms.items():
            sums = self._sums.setdefault(name, [None] * len(self._parameters))
            if not value.requires_grad:
                continue
            try:
                self._scaler.scale(value).backward(retain_graph=name != last)  # type: ignore[no-untyped-call]  # torch's
            except Exception as error:
                error.add_note(
                    f"in the backward pass of the term {name!r} by itself, which {self._plugin.name!r} asks for by {_HOOK}"
                )
                raise
            for place, parameter in enumerate(self._parameters):
                gradient, parameter.grad = parameter.grad, None
                if gradient is not None:
                    before = sums[place]
                    sums[place] = gradient if before is None else before + gradient

    def mark_reached(self) -> None:
        """Put a gradient into ``.grad`` wherever some term has one: what the rehearsal tells reached parameters by."""
        for place, parameter in enumerate(self._parameters):
            parameter.grad = next((sums[place] for sums in self._sums.values() if sums[place] is not None), None)

    def combine(self, step: Step) -> None:
        """Put what the plugin makes of the gradients into ``.grad``; scaled, as after any backward pass in float16.

        Args:
            step: the last part's, with the losses of the whole batch.

        Raises:
            StillhouseError: the plugin gave something else than a gradient by parameter.
        """
        with torch.no_grad():
            gradients = {name: self._complete(sums) for name, sums in self._sums.items()}
            self._sums = {}
            scale = None
            if self._scaler.is_enabled():
                gradients, scale = self._unscale(gradients)
            try:
                combined = self._check(self._combine(step, gradients))
            except StillhouseError as error:
                raise error.within(f"plugin {self._plugin.name!r}") from None
            except Exception as error:
                note_place(error, self._plugin, _HOOK, step)
                raise
            self._put(combined, scale)

    def _complete(self, sums: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """A term's gradients as in one process: averaged, gathered, and zeros where it does not reach.

        Which parameters it reaches may differ by process, and to agree on that the host would have to wait.
        """
        pairs = list(zip(self._parameters, sums, strict=True))
        filled = [torch.zeros(p.shape, dtype=p.dtype, device=p.device) if s is None else s for p, s in pairs]
        # FSDP2 has averaged those of what it spreads.
        parallel.average_tensors(
            [g for g, p in zip(filled, self._parameters, strict=True) if not isinstance(p, DTensor)]
        )
        return tuple(to_whole(gradient) for gradient in filled)

    def _unscale(self, gradients: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, tuple[Tensor, ...]], Tensor]:
        """The gradients unscaled, and the scale; zeros and NaN if one of them has overflowed, so that the step is left out.

        A combination may hide an infinite term, or remember it in a running mean. Nothing here waits for the device.
        """
        everything = [gradient for own in gradients.values() for gradient in own]
        scale: Tensor = self._scaler.scale(torch.ones((), device=everything[0].device))
        fits = torch.nn.utils.get_total_norm(everything, norm_type=math.inf).isfinite()
        unscaled = {
            name: tuple(torch.where(fits, gradient / scale, 0.0) for gradient in own) for name, own in gradients.items()
        }
        return unscaled, torch.where(fits, scale, math.nan)

    def _check(self, combined: Any) -> Sequence[Tensor | None]:
        """What the plugin gave, if it fits the parameters."""
        count = len(self._parameters)
        if isinstance(combined, Mapping | Tensor) or not isinstance(combined, Sequence):
            raise StillhouseError(f"gave {type(combined).__name__}", where=_HOOK, hint=_WANTED)
        if len(combined) != count:
            raise StillhouseError(
                f"gave {len(combined)} gradients, and there are {count} parameters", where=_HOOK, hint=_WANTED
            )
        for name, parameter, gradient in zip(self._names, self._parameters, combined, strict=True):
            if gradient is None:
                continue
            if not isinstance(gradient, Tensor):
                wrong = type(gradient).__name__
            elif gradient.shape != parameter.shape:
                wrong = f"a tensor of shape {format_shape(gradient)} and not {format_shape(parameter)}"
            elif gradient.device != parameter.device:
                wrong = f"a tensor on {gradient.device} and not {parameter.device}"
            else:
                continue
            raise StillhouseError(f"gave for {name} {wrong}", where=_HOOK, hint=_WANTED)
        return combined

    def _put(self, combined: Sequence[Tensor | None], scale: Tensor | None) -> None:
        """Give each parameter a copy of its gradient: a plugin may hand out one tensor twice, or one that it keeps."""
        own: list[Tensor] = []
        for parameter, gradient in zip(self._parameters, combined, strict=True):
            if gradient is None:
                continue
            if scale is not None:
                gradient = gradient * scale
            if isinstance(parameter, DTensor):
                parameter.grad = spread_like(gradient.to(parameter.dtype), parameter)
            else:
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
                own.append(parameter.grad)
        parallel.copy_from_first(own)  # random choices of the plugin's are made once


def _weigh_terms(step: Step) -> Iterator[tuple[str, Tensor]]:
    """Yield each term by name, as far as it counts in the total."""
    for name, value in step.losses.items():
        factor: Tensor | float = step.weights[name]
        if step.share is not None:
            factor = factor * step.share[0 if name == "task" else 1]
        yield name, value * factor


def make_zero_grad(optimizer: Optimizer) -> Callable[[], None]:
    """Return a fast ``zero_grad`` for ``optimizer``, to be called in every step.

    torch opens a profiler's range around its own, which costs more than five plugins' hooks do. An optimizer with a
    ``zero_grad`` of its own has that called.
    """
    if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not Optimizer.zero_grad:
        return optimizer.zero_grad

    def clear() -> None:
        for group in optimizer.param_groups:  # loading a state puts another list there
            for parameter in group["params"]:
                parameter.grad = None

    return clear
