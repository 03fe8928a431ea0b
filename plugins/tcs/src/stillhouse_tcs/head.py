"""The student's path through the teacher's coordinates, in the place of its last linear layer, and its folding back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import StillhouseError
from stillhouse_tcs.axes import Axes

__all__ = ["CoordinateHead", "FittableModule", "Lift", "Project", "Readout", "find_head", "fold"]


class FittableModule(nn.Module):
    """A module whose tensors take a state dict's shapes before it is loaded: the number of axes follows from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_fit_before_loading)  # type: ignore[no-untyped-call]  # torch gives it no types

    def fit_to(self, state: Mapping[str, Any]) -> None:
        """Give every tensor that ``state`` has the shape it has there; values are left undefined where that changes."""
        for key, value in state.items():
            path, _, name = key.rpartition(".")
            try:
                owner = self.get_submodule(path)
            except AttributeError:
                continue
            own = getattr(owner, name, None)
            if not isinstance(value, Tensor) or (isinstance(own, Tensor) and own.shape == value.shape):
                continue
            if isinstance(own, nn.Parameter):
                own.data = own.data.new_empty(value.shape)
            elif isinstance(own, Tensor):
                setattr(owner, name, own.new_empty(value.shape))


def _fit_before_loading(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, FittableModule)  # it is registered by it
    module.fit_to({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


class Lift(nn.Module):
    """A z + b: student features (B, d_s) into the teacher's space (B, d_t), from its mean; z + b where the widths agree.

    A z + b + mu is the feature itself. mu is never added: where it is large against the features' spread, nothing of the
    coordinates would be left of float32 once it is taken away again.

    Args:
        d_s: the student's width.
        d_t: the teacher's.
    """

    def __init__(self, d_s: int, d_t: int) -> None:
        super().__init__()
        # A starts as nn.Linear's weight does.
        self.weight: nn.Parameter | None = nn.Parameter(nn.Linear(d_s, d_t).weight.detach()) if d_s != d_t else None
        self.bias = nn.Parameter(torch.zeros(d_t))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d_s) -> (B, d_t)."""
        return z + self.bias if self.weight is None else F.linear(z, self.weight, self.bias)


class Project(nn.Module):
    """V^T h: the coordinates (B, k) of features (B, d_t) from which mu is taken; frozen."""

    axes: Tensor

    def __init__(self, axes: Tensor) -> None:
        super().__init__()
        self.register_buffer("axes", axes.float())

    def forward(self, h: Tensor) -> Tensor:
        """(B, d_t) -> (B, k)."""
        return h @ self.axes


class Readout(nn.Module):
    """W (m * c) + b': logits (B, C) of coordinates (B, k).

    Attributes:
        weight: W (C, k).
        bias: b' (C,).
        mask: m (k,); trained where dimensions are selected by training, else all ones.
        live: 1 where a dimension is in use, 0 where it was dropped (k,).
        scores: |m dL/dm| by dimension, summed since the last round (k,).
        history: live dimensions before the first round and after each one; 0 for a round that is still to come.
    """

    live: Tensor
    scores: Tensor
    history: Tensor

    def __init__(self, k: int, outputs: int, *, train_mask: bool, train_head: bool, rounds: int) -> None:
        super().__init__()
        linear = nn.Linear(k, outputs)
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=train_head)
        self.bias = nn.Parameter(linear.bias.detach(), requires_grad=train_head)
        self.mask = nn.Parameter(torch.ones(k), requires_grad=train_mask)
        self.register_buffer("live", torch.ones(k))
        self.register_buffer("scores", torch.zeros(k))
        history = torch.zeros(rounds + 1)
        history[0] = k
        self.register_buffer("history", history)

    def forward(self, c: Tensor) -> Tensor:
        """(B, k) -> (B, C)."""
        return F.linear(c * (self.mask * self.live), self.weight, self.bias)


class CoordinateHead(FittableModule):
    """c = V^T (A z + b), logits = W (m * c) + b': (B, d_s) -> (B, C), in float32 whatever autocast says.

    Source: 2412.09388, whose bias is b + mu: that starts at mu and has mu taken away. Here b starts at 0, which is the same
    without the rounding. A is there only where the student's width differs from the teacher's; V is frozen. All of it is
    linear, so that :func:`fold` gives one nn.Linear.

    Attributes:
        mean: mu (d_t,), which the teacher's scaled features have; for whoever looks at them.
        system: the coordinate system that it was made of, in float64.

    Args:
        d_s: the student's width.
        outputs: C.
        axes: the coordinate system (d_t, k).
        train_mask: whether m is trained.
        train_head: whether W and b' are.
        rounds: how many rounds of selection there will be.
    """

    mean: Tensor
    scale: Tensor
    spectrum: Tensor
    explained: Tensor
    energy: Tensor

    def __init__(
        self, d_s: int, outputs: int, axes: Axes, *, train_mask: bool = False, train_head: bool = True, rounds: int = 0
    ) -> None:
        super().__init__()
        self.system = axes
        self.lift = Lift(d_s, len(axes.mean))
        self.project = Project(axes.vectors)
        self.readout = Readout(axes.k, outputs, train_mask=train_mask, train_head=train_head, rounds=rounds)
        self.register_buffer("mean", axes.mean.float())
        self.register_buffer("scale", torch.tensor(axes.scale))
        self.register_buffer("spectrum", axes.spectrum.float())
        self.register_buffer("explained", torch.tensor(axes.explained))
        self.register_buffer("energy", torch.tensor(axes.energy))

    def fit_to(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Fitting.fit_to`; A comes or goes as ``state`` has it."""
        if "lift.bias" in state and "lift.weight" not in state:
            self.lift.weight = None
        elif "lift.weight" in state and self.lift.weight is None:
            self.lift.weight = nn.Parameter(self.lift.bias.detach().new_empty(0))
        super().fit_to(state)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d_s) -> (B, C)."""
        with torch.autocast(z.device.type, enabled=False):
            logits: Tensor = self.readout(self.project(self.lift(z.to(self.lift.bias.dtype))))
            return logits


@torch.no_grad()
def fold(head: CoordinateHead, in_features: int) -> nn.Linear:
    """Fold ``head`` into one linear layer (d_s -> C), computed in float64."""
    axes, readout, lift = head.project.axes.double(), head.readout, head.lift
    to_logits = (readout.weight.double() * (readout.mask * readout.live).double()) @ axes.T
    weight = to_logits if lift.weight is None else to_logits @ lift.weight.double()
    bias = to_logits @ lift.bias.double() + readout.bias.double()
    linear = nn.Linear(in_features, len(bias), device=weight.device, dtype=readout.weight.dtype)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear


def find_head(student: nn.Module, outputs: int, name: str = "") -> str:
    """Find the dotted path of the student's last linear layer, which gives its ``outputs``.

    Raises:
        StillhouseError: there is none, it is not linear, or it has no bias; names the linear layers.
    """
    linear = {path: module for path, module in student.named_modules() if isinstance(module, nn.Linear)}
    fitting = [path for path, module in linear.items() if module.out_features == outputs]
    shown = ", ".join(f"{p or 'the student itself'} ({m.in_features} to {m.out_features})" for p, m in linear.items())
    candidates = f"linear layers: {shown}" if linear else "the student has no linear layer"
    if name and name not in linear:
        known = dict(student.named_modules())
        what = f"must be linear, got {type(known[name]).__name__}" if name in known else "is not in the student"
        raise StillhouseError(f"the layer {name!r} {what}", where="head", hint=candidates)
    if not name and not fitting:
        raise StillhouseError(f"needs a linear layer of {outputs} outputs", where="student", hint=candidates)
    path = name or fitting[-1]
    if linear[path].bias is None:
        raise StillhouseError(
            f"the head {path!r} needs a bias, as the folded path has one",
            where="student",
            hint="give the layer a bias, or name another with `head`",
        )
    return path
