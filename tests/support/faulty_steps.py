"""Plugins with a mistake in their terms, or that hold in some circumstances alone; as in :mod:`support.faulty_plugins`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from stillhouse import LinkSpec, Plugin, Tap, hookimpl
from support.faulty_plugins import Term, mistake
from support.wrong_plugins import out


@mistake("frozen-parts")
class ShrinksAll(Term):
    """Shrinks every parameter, frozen or not."""

    @hookimpl
    def optimizer_stepped(self, run, step):
        for parameter in run.student.parameters():
            parameter.mul_(0.9)


class Guesser(nn.Module):
    """A map that is trained, and a frozen network with batch statistics and dropout."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Dropout(0.2)
        self.map = nn.Linear(outputs, outputs)
        self.network = nn.Sequential(*layers).requires_grad_(False)


@mistake("frozen-networks")
class Noisy(Term):
    """Holds the student against a frozen network that it leaves in train mode."""

    @hookimpl
    def build(self, assembly):
        return Guesser(3, 3)

    @hookimpl
    def losses(self, step):
        module = step.module(self)
        with torch.no_grad():
            target = module.network(out(step))
        return {"": F.mse_loss(module.map(out(step)), target)}


@mistake("remarks")
class Misordered(Term):
    """Orders itself against a kind that is spelt otherwise."""

    before = ("projectr",)


@mistake("modes")
class Evaluates(Term):
    """Puts the student into eval mode."""

    @hookimpl
    def epoch_started(self, run):
        run.student.eval()


@mistake("in-place")
class WritesData(Term):
    """Writes over a layer's output behind autograd's back."""

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "stage2")]

    @hookimpl
    def losses(self, step):
        ((_, x),) = step.tapped("student", "stage2")
        x.data.mul_(0.5)
        return {"": x.float().square().mean()}


@mistake("terms")
class MovesNothing(Term):
    """Compares an output with itself."""

    @hookimpl
    def losses(self, step):
        return {"": (out(step) - out(step)).square().mean()}


@mistake("terms")
class NanGradient(Term):
    """Takes the root of zero."""

    @hookimpl
    def losses(self, step):
        return {"": out(step).square().mean() + 0 * (out(step) * 0).square().sum().sqrt()}


@mistake("parameters")
class Unused(Term):
    """Has a parameter that nothing reaches."""

    @hookimpl
    def build(self, assembly):
        return nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    @hookimpl
    def losses(self, step):
        return {"": step.module(self)[0](out(step)).square().mean()}


@mistake("weight-zero")
class Shrinks(Term):
    """Writes to the student whatever its weight."""

    @hookimpl
    def optimizer_stepped(self, run, step):
        next(run.student.parameters()).data.mul_(0.99)


@mistake("waiting")
class Items(Term):
    """Branches on a tensor."""

    @hookimpl
    def losses(self, step):
        x = out(step).square().mean()
        return {"": x if x.item() > 0 else 2 * x}


@mistake("waiting")
class Moves(Term):
    """Computes on the host."""

    @hookimpl
    def losses(self, step):
        return {"": out(step).cpu().square().mean()}


@mistake("bfloat16")
class HalfTerm(Term):
    """Computes in whatever precision comes."""

    @hookimpl
    def losses(self, step):
        return {"": step.student.output.square().mean()}


@mistake("accumulation")
class WholeBatch(Term):
    """Counts on the recipe's batch size."""

    @hookimpl
    def losses(self, step):
        if len(step.ids) not in (2, 8):
            raise ValueError("a batch is 8")
        return {"": out(step).square().mean()}


@mistake("small-batches")
class NeedsMany(Term):
    """Comes to grief on two samples, in a step that is not the first."""

    @hookimpl
    def losses(self, step):
        if step.iteration and len(step.ids) < 3:
            raise ValueError("too few")
        return {"": out(step).square().mean()}


@mistake("mixed-targets")
class Labels(Term):
    """Takes targets for labels, and does not say so."""

    @hookimpl
    def losses(self, step):
        return {"": F.nll_loss(out(step).log_softmax(1), step.targets)}


@mistake("layouts")
class MapsAlone(Term):
    """Takes features for maps."""

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "stage3")]

    @hookimpl
    def losses(self, step):
        ((_, x),) = step.tapped("student", "stage3")
        return {"": x.float().mean((2, 3)).square().mean()}


@mistake("wider-teacher")
class SameWidth(Term):
    """Subtracts features of two widths."""

    requires = ("teacher",)
    provides = ("links",)

    @hookimpl
    def add_taps(self, assembly):
        return [Tap(model, "stage3") for model in ("student", "teacher")]

    @hookimpl
    def add_links(self, assembly):
        return [LinkSpec("stage3", "stage3", "stage3")]

    @hookimpl
    def losses(self, step):
        (link,) = step.links_of(self)
        return {"": (link.student.float() - link.teacher.float()).square().mean()}


@mistake("neighbours")
class Alone(Term):
    """Counts on being alone."""

    @hookimpl
    def losses(self, step):
        (name,) = [term for term in step.losses if term != "task"] or ["none"]
        if name != "none":
            raise ValueError(f"who is {name}?")
        return {"": out(step).square().mean()}


@mistake("compilation")
class NoCompiler(Term):
    """Comes to grief beside a compiler."""

    @hookimpl
    def started(self, run):
        if run.recipe.speed.compile != "none":
            raise ValueError("compiled")


@mistake("processes")
class OneProcess(Term):
    """Comes to grief in a second process."""

    @hookimpl
    def started(self, run):
        if torch.distributed.is_initialized():
            raise ValueError("who is there?")


@mistake("training")
class Detaches(Plugin):
    """Cuts the student off from its links."""

    requires = ("links",)

    @hookimpl
    def transform(self, step):
        for link in step.match("*"):
            link.student = link.student.detach() * 1.0
