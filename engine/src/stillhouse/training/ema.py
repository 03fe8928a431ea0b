"""An exponential moving average of the student's weights: kept in step with the optimizer, measured in the student's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stillhouse.config.run_options import EmaSpec
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.nested import can_be_resized

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """The average of a student's parameters and floating-point buffers; other buffers are the student's latest.

    So are infinities that the student starts with, which have no average.

    After update n (from 1) it is d a + (1 - d) w, with a the average before and w the weights now; d is ``decay``, or
    with ``warmup`` at most (1 + n) / (10 + n) (as in TensorFlow's ExponentialMovingAverage with ``num_updates``). The
    arithmetic is torch's :func:`torch.optim.swa_utils.get_ema_multi_avg_fn`: one call for all tensors of a kind, and no
    wait for the device. ignite's EMAHandler makes two calls for each parameter, and does not save where its warm-up is;
    torch's AveragedModel copies its count to the device at each update. Both hold a second model, with a copy of every
    tap's hook; here are tensors alone.

    Args:
        student: followed; plugins' modules are not part of it.
        spec: how.
    """

    name = "ema"

    def __init__(self, student: nn.Module, spec: EmaSpec) -> None:
        self._spec = spec
        self._student = student
        self._slots = _slots(student)
        self.updates = 0
        """How many weights went into the average, its start aside."""
        self.weights: dict[str, Tensor] = {name: tensor.clone() for name, tensor in self._live().items()}
        """By the keys of the student's state dict."""
        floating = {name: own for name, own in self.weights.items() if own.is_floating_point()}
        self._with_infinities = {name for name, own in floating.items() if not bool(own.isfinite().all())}

    def _live(self) -> dict[str, Tensor]:
        # Read anew each time, because a module may put another tensor in a buffer's place; from the modules' own tables,
        # because a state dict takes several times as long.
        if self._slots is not None:
            return {key: table[name].detach() for key, (table, name) in self._slots.items()}
        state = self._student.state_dict()
        return {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}

    @property
    def instead(self) -> bool:
        """Whether the average is what the run measures and gives."""
        return self._spec.evaluate == "instead"

    @property
    def decay(self) -> float:
        """What the next update keeps of the average."""
        count = self.updates + 1
        return min(self._spec.decay, (1 + count) / (10 + count)) if self._spec.warmup else self._spec.decay

    @hookimpl
    def optimizer_stepped(self) -> None:
        """Take the student's weights in."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Take the student's weights in; once after each optimizer step. Does not wait for the device."""
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]  # torch gives it no types
        kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
        for name, live in self._live().items():
            own = self.weights[name]
            if own.shape != live.shape:  # of an observer of ranges, which its first batches resize
                self.weights[name] = live.clone()
            elif name in self._with_infinities:  # a mask's, for good; an observer's, until its first batch
                both = own.isfinite() & live.isfinite()
                own.copy_(torch.where(both, own + (1 - self.decay) * (live - own), live))
            elif own.is_floating_point() or own.is_complex():
                mine, theirs = kinds.setdefault((own.dtype, own.device), ([], []))
                mine.append(own)
                theirs.append(live)
            else:
                own.copy_(live)
        for mine, theirs in kinds.values():
            average(mine, theirs, 0)  # its third argument, a count, is for averages of another kind
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the student has the averaged weights; afterwards its own again, bit for bit.

        Values are exchanged and not tensors, so that a compiled student stays compiled.
        """
        live = self._live()
        with torch.no_grad():
            kept = {name: tensor.clone() for name, tensor in live.items()}
            for name, tensor in live.items():
                tensor.copy_(self.weights[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(kept[name])

    @torch.no_grad()
    def put(self) -> None:
        """Give the student the averaged weights for good."""
        for name, tensor in self._live().items():
            tensor.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        """The average and how many updates it has seen; a checkpoint's ``ema``."""
        return {
            "weights": dict(self.weights),
            "updates": self.updates,
            "instead": self.instead,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved average.

        Raises:
            ValueError: it is another student's.
        """
        saved = state["weights"]
        wrong = [k for k in {**self.weights, **saved} if k not in saved or k not in self.weights]
        resized = [k for k in self.weights if k in saved and saved[k].shape != self.weights[k].shape]
        wrong += [k for k in resized if not can_be_resized(self._student, k)]
        if wrong:
            raise ValueError(f"the average is of another model: {', '.join(sorted(wrong)[:4])}")
        self.weights |= {name: torch.empty_like(self.weights[name]).resize_(saved[name].shape) for name in resized}
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(saved[name])
        self.updates = int(state["updates"])


def _slots(student: nn.Module) -> dict[str, tuple[dict[str, Any], str]] | None:
    """Where each tensor of the state dict lies, by its key; None for a module that has a state dict of its own making."""
    state = student.state_dict()
    found = {
        f"{path}.{name}" if path else name: (table, name)
        for path, module in student.named_modules(remove_duplicate=False)
        for table in (module._parameters, module._buffers)
        for name in table
    }
    keys = [key for key, value in state.items() if isinstance(value, Tensor)]
    own = all(key in found and found[key][0][found[key][1]] is not None for key in keys)
    return {key: found[key] for key in keys} if own else None
