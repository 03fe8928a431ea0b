"""What the student draws in its forward pass, dropout above all: by seed and step, whatever plugins draw beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from stillhouse.contract.run import Run
from stillhouse.seeds import mix

__all__ = ["draw_by_step", "draws"]


def draws(model: nn.Module) -> bool:
    """Whether any part of ``model`` draws random numbers in training, as far as its modules and their attributes tell.

    Dropout of any kind, stochastic depth (timm's and torchvision's), and whatever has a rate above 0 under a name with
    "drop" in it, as recurrent layers, attention and the models of transformers do. A call of ``F.dropout`` with a rate that
    stands in the code is not seen.
    """
    return any(_draws(module) for module in model.modules())


def _draws(module: nn.Module) -> bool:
    if isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return True
    named = "drop" in type(module).__name__.lower() or "stochasticdepth" in type(module).__name__.lower()
    rates = [value for key, value in vars(module).items() if "drop" in key or (named and key == "p")]
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


@contextmanager
def draw_by_step(run: Run, rank: int, *, compiled: bool) -> Iterator[None]:
    """Context of training in which each forward pass of the student draws from a state of its own, of seed, rank and step.

    Two runs of one seed then have the same masks in the same step, also where a plugin of one of them draws in between, and
    the plugin's numbers do not depend on the student's. A student that does not draw is left alone; so is one that is
    ``compiled``, whose graph has the generator's calls inside.
    """
    if compiled or not draws(run.student):
        yield
        return
    student: nn.Module = run.student
    own = _StepDraws(run, rank)
    handles = [student.register_forward_pre_hook(own.begin), student.register_forward_hook(own.end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _StepDraws:
    """Puts the generators to a state that follows from the step before a forward pass, and back behind it."""

    def __init__(self, run: Run, rank: int) -> None:
        self._run, self._rank = run, rank
        self._generators: list[Generator] = [torch.default_generator]
        if run.device.type == "cuda":
            self._generators.append(torch.cuda.default_generators[run.device.index or 0])
        self._kept: list[Tensor] = []
        self._step, self._calls = -1, 0

    def begin(self, student: nn.Module, *_: Any) -> None:
        """Before the pass; evaluation draws nothing, and its passes do not count."""
        if not student.training:
            return
        step = self._run.trainer.state.iteration
        self._calls = self._calls + 1 if step == self._step else 0  # a batch in parts has several passes a step
        self._step = step
        self._kept = [generator.get_state() for generator in self._generators]
        seed = mix(self._run.seed, self._rank, step, self._calls)
        for generator in self._generators:
            generator.manual_seed(seed)

    def end(self, student: nn.Module, *_: Any) -> None:
        """Behind the pass, also behind one that failed."""
        kept, self._kept = self._kept, []
        for generator, state in zip(self._generators, kept, strict=False):
            generator.set_state(state)
