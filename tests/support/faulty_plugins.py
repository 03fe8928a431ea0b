"""Plugins with one mistake each, by the check of the conformance kit that finds it, and one without any."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stillhouse import Plugin, StillhouseError, Tap, Weight, hookimpl, plugin
from stillhouse.layout import channels, to_rows
from support.wrong_plugins import out


class Head(nn.Module):
    """A map of the teacher's width and a running mean: a module as it should be."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)
        self.register_buffer("mean", torch.zeros(outputs))


@plugin
class Right(Plugin):
    """Bring a layer's rows to the teacher's, less their running mean.

    Attributes:
        layer: the layer in both models.
        momentum: how much of the mean stays in a step, 0 to 1.
        weight: the term's factor.
    """

    requires = ("teacher",)

    layer: str = "stage3"
    momentum: float = 0.9
    weight: Weight = 1.0

    def __attrs_post_init__(self):
        if not 0 <= self.momentum <= 1:
            raise StillhouseError(f"must be in [0, 1], got {self.momentum}", where="momentum")

    @hookimpl
    def add_taps(self, assembly):
        return [Tap(model, self.layer) for model in ("student", "teacher")]

    @hookimpl
    def build(self, assembly):
        ours, theirs = (assembly.features[model][self.layer] for model in ("student", "teacher"))
        return Head(channels(ours), channels(theirs))

    @hookimpl
    def losses(self, step):
        head = step.module(self)
        ours, theirs = (to_rows(step.tapped(model, self.layer)[0][1]).float() for model in ("student", "teacher"))
        with torch.no_grad():
            head.mean.lerp_(theirs.mean(0), 1 - self.momentum)
        return {"": F.mse_loss(head.map(ours), theirs - head.mean)}


MISTAKES: list[tuple[str, type[Plugin]]] = []


def mistake(check: str) -> Any:
    """Note the class as one that ``check`` finds."""

    def note(cls: type[Plugin]) -> type[Plugin]:
        made = plugin(cls)
        MISTAKES.append((check, made))
        return made

    return note


@plugin
class Term(Plugin):
    """What the mistakes have in common: a small term."""

    weight: Weight = 0.1

    @hookimpl
    def losses(self, step):
        return {"": out(step).square().mean()}


@mistake("documentation")
class Undocumented(Plugin):
    """It says nothing of its option."""

    scale: float = 1.0


@mistake("types")
class AnyOption(Plugin):
    """Takes anything.

    Attributes:
        thing: anything.
    """

    thing: Any = None


@mistake("recipe-form")
class Doubled(Plugin):
    """Changes what it was given.

    Attributes:
        scale: a factor.
    """

    scale: float = 1.0

    def __attrs_post_init__(self):
        object.__setattr__(self, "scale", self.scale * 2)


@mistake("training")
class Raises(Term):
    """Raises in a step."""

    @hookimpl
    def losses(self, step):
        if step.iteration == 3:
            raise ValueError("boom")
        return {"": out(step).mean()}


@mistake("training")
class Vector(Term):
    """Gives a vector for a term: the walk says so."""

    @hookimpl
    def losses(self, step):
        return {"": out(step).mean(1)}


@mistake("wrong-options")
class Divides(Term):
    """Divides by its option."""

    scale: float = 2.0

    @hookimpl
    def build(self, assembly):
        assembly.note(self, f"the inverse is {1 / self.scale}")
