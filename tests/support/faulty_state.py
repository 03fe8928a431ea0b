"""Plugins that keep, read or write what they should not; as in :mod:`support.faulty_plugins`."""

from __future__ import annotations

import copy
import itertools
from typing import Any, ClassVar

import torch
from torch import nn

from stillhouse import hookimpl
from stillhouse.errors import warn_deprecated
from support.faulty_plugins import MISTAKES, Term, mistake
from support.wrong_plugins import out


@mistake("repeatability")
class Counts(Term):
    """Counts in the class."""

    seen: ClassVar[Any] = itertools.count(1)

    @hookimpl
    def losses(self, step):
        return {"": out(step).square().mean() * next(self.seen)}


class PlainMean(nn.Module):
    """Keeps a tensor as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(())


@mistake("module-state")
class PlainTensor(Term):
    """Keeps its mean in a plain attribute."""

    @hookimpl
    def build(self, assembly):
        return PlainMean()

    @hookimpl
    def losses(self, step):
        module, x = step.module(self), out(step).square().mean()
        module.mean = 0.5 * module.mean + 0.5 * x.detach()
        return {"": (x - module.mean).square()}


MISTAKES.append(("resume", PlainTensor))


class PlainList(nn.Module):
    """Keeps its maps, and the student, in lists."""

    def __init__(self, width: int, student: nn.Module) -> None:
        super().__init__()
        self.maps = [nn.Linear(width, 1)]
        self.models = [student]


@mistake("module-state")
class UntrainedMaps(Term):
    """Keeps its maps in a list, where no optimizer finds them."""

    @hookimpl
    def build(self, assembly):
        return PlainList(3, assembly.student)

    @hookimpl
    def losses(self, step):
        return {"": step.module(self).maps[0](out(step)).square().mean()}


@mistake("loading")
class NeedsBatches(Term):
    """Asks for batches in a run that is loaded."""

    @hookimpl
    def build(self, assembly):
        assert assembly.batches.steps_per_epoch

    @hookimpl
    def metrics(self, assembly):
        return {}


@mistake("outer-state")
class ClassList(Term):
    """Keeps numbers in a list of the class."""

    seen: ClassVar[list[int]] = []

    @hookimpl
    def losses(self, step):
        self.seen.append(step.iteration)
        return {"": out(step).square().mean()}


KEPT: dict[str, Any] = {}


@mistake("leftovers")
class KeepsTensors(Term):
    """Keeps the first step's output."""

    @hookimpl
    def losses(self, step):
        if step.iteration == 0:
            KEPT["first"] = step.student.output
        return {"": out(step).square().mean()}


@mistake("leftovers")
class LeavesHandle(Term):
    """Puts a hook on the student and leaves it there."""

    @hookimpl
    def started(self, run):
        run.student.stage1.register_forward_hook(lambda *_: None)


@mistake("globals")
class Seeds(Term):
    """Sets the seed of the process."""

    @hookimpl
    def losses(self, step):
        torch.manual_seed(0)
        return {"": out(step).square().mean()}


@mistake("teacher")
class WritesTeacher(Term):
    """Moves the teacher."""

    requires = ("live teacher",)

    @hookimpl
    def optimizer_stepped(self, run, step):
        run.teacher.head.bias.add_(1.0)


@mistake("versions")
class Outdated(Term):
    """Uses a name that will go."""

    @hookimpl
    def started(self, run):
        warn_deprecated("run.old", "run.new", "0.3", stacklevel=2)


@mistake("structure")
class Replaces(Term):
    """Puts a copy into the place of a layer, in the middle of the run."""

    @hookimpl
    def epoch_started(self, run):
        if run.trainer.state.epoch == 2:
            run.student.stage2 = copy.deepcopy(run.student.stage2)
