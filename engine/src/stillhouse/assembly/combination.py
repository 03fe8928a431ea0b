"""The rehearsal of ``combine_gradients``: the terms' gradients taken one by one, combined, and nothing applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.assembly.soundness import list_names
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.step import Step
from stillhouse.distributed.fsdp import to_local
from stillhouse.errors import StillhouseError
from stillhouse.loop.composition import Composition
from stillhouse.loop.gradients import TermGradients
from stillhouse.registry.hooks import Call

__all__ = ["Combination"]

_HOOK = "combine_gradients"
Gradients = Mapping[str, Sequence[Tensor]]


class Combination:
    """Has the plugin that combines gradients do so once, looked at before and after.

    Args:
        assembly: gets a note of what the plugin leaves without a gradient.
        composition: complete, without gradients.
        call: the plugin, and its hook.
    """

    def __init__(self, assembly: Assembly, composition: Composition, call: Call) -> None:
        self._assembly, self._composition = assembly, composition
        self._plugin, self._combine = call
        self._finite = True
        scaler = torch.amp.GradScaler(assembly.device.type, enabled=False)
        self._gradients = TermGradients(composition, (self._plugin, self._watched(self._combine)), scaler)

    def backward(self, step: Step) -> None:
        """Take each term's gradients by itself, and leave in ``.grad`` which parameters they reach."""
        self._gradients.backward(step)
        self._gradients.mark_reached()

    def combine(self, step: Step) -> None:
        """Call the hook; what it gives stays in ``.grad``.

        Raises:
            StillhouseError: it gives something else than a gradient by parameter, NaN of what is finite, or nothing for
                every parameter; or it changes in place what it is given.
        """
        trained = self._composition.trained
        reached = {name for name, parameter in trained if parameter.grad is not None}
        for _, parameter in trained:
            parameter.grad = None
        self._gradients.combine(step)
        where = f"plugin {self._plugin.name!r}: {_HOOK}"
        without = [name for name, parameter in trained if parameter.grad is None]
        if reached and len(without) == len(trained):
            raise StillhouseError(
                "gave None for every parameter, and nothing would be trained",
                where=where,
                hint="None leaves a parameter without a gradient",
            )
        gradients = [(name, to_local(p.grad)) for name, p in trained if p.grad is not None]
        bad = [name for name, gradient in gradients if not bool(torch.isfinite(gradient).all())]
        if bad and self._finite:
            raise StillhouseError(
                f"gave values that are not finite for {list_names(bad)}, of gradients that are",
                where=where,
                hint="a division by a length or a product that may be 0: clamp(min=...)",
            )
        left = [name for name in without if name in reached]
        plugin = next((p for p in self._assembly.plugins if p.name == self._plugin.name), None)
        if left and plugin is not None:
            self._assembly.note(plugin, f"{_HOOK} gives no gradient for {list_names(left)}")

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(step: Step, gradients: Gradients) -> Any:
            self._finite = all(bool(torch.isfinite(g).all()) for own in gradients.values() for g in own)
            before = self._list_tensors(gradients)
            found = function(step, gradients)
            for what, tensor, version in before:
                if tensor._version != version:
                    raise StillhouseError(f"changes {what} in place", where=_HOOK, hint="return new tensors")
            return found

        return watched

    def _list_tensors(self, gradients: Gradients) -> list[tuple[str, Tensor, int]]:
        names = [name for name, _ in self._composition.trained]
        found: list[tuple[str, Tensor, int]] = []
        found += [(f"the parameter {name}", p, p._version) for name, p in self._composition.trained]
        for term, own in gradients.items():
            found += [
                (f"the gradient of the term {term!r} for {name}", gradient, gradient._version)
                for name, gradient in zip(names, own, strict=True)
            ]
        return found
