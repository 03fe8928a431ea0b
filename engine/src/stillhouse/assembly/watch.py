"""Checks around each ``transform`` and ``losses``: on during the walk and a run's first steps, and paid by no later one.

Nothing here waits for the device: versions, shapes and whether there is a gradient are known on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse.contract.protocols import Named
from stillhouse.contract.sealed import put, refuse
from stillhouse.contract.step import Side, Step
from stillhouse.errors import Fault, StillhouseError
from stillhouse.layout import format_shape
from stillhouse.loop.composition import Composition
from stillhouse.loop.terms import check_terms
from stillhouse.nested import list_tensors

__all__ = ["Watch", "watch_first_steps"]

Hook = Callable[[Step], Any]


class Watch:
    """Looks at what a plugin's hook does to a step.

    Args:
        composition: whose parameters' gradients, links and layers are looked at.

    Attributes:
        read: the teachers whose output some hook has asked for, with the plugin that did so first.
    """

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self.read: dict[str, str] = {}

    def around(self, plugin: Named, hook: str, function: Hook) -> Hook:
        """``function``, which is ``plugin``'s ``hook``, with a look at the step before and after.

        What it returns raises a StillhouseError that names plugin and hook: for a tensor changed in place, a changed
        number of rows, a gradient left in ``.grad``, a term that is none, a module, layer or teacher that is not there.
        """

        def watched(step: Step) -> Any:
            where = f"plugin {plugin.name!r}"
            versions, rows = _versions(step), _rows(step)
            without = [p for p in self._composition.parameters() if p.grad is None]
            try:
                with self._heard(step, plugin.name):
                    found = function(step)
            except StillhouseError as error:
                raise _placed(error, hook).within(where) from error.__cause__
            except (AttributeError, KeyError) as error:
                fault = self._missing(error, plugin, hook, step)
                if fault is None:
                    raise
                raise StillhouseError(faults=[fault]) from error
            faults = _changed(versions, hook) + _misshapen(step, rows, hook)
            if any(p.grad is not None for p in without):
                faults.append(
                    Fault("", f"{hook} leaves gradients in .grad", "the engine's own backward pass would add to them")
                )
            if hook == "losses":
                faults += _wrong_terms(found, step)
            if faults:
                raise StillhouseError(faults=faults).within(where)
            return found

        return watched

    @contextmanager
    def _heard(self, step: Step, plugin: str) -> Iterator[None]:
        """Inside, note whether ``plugin`` asks for what a teacher returned, in the sides that it reads."""
        teacher, further = step.teacher, dict(step.teachers)
        if teacher is None:
            yield
            return
        put(step, "teacher", _HeardSide(teacher, partial(self.read.setdefault, "teacher", plugin)))
        for name, side in further.items():
            heard = _HeardSide(side, partial(self.read.setdefault, name, plugin))
            dict.__setitem__(step.teachers, name, heard)  # the engine's own way past the seal
        try:
            yield
        finally:
            put(step, "teacher", teacher)
            for name, side in further.items():
                dict.__setitem__(step.teachers, name, side)

    def _missing(self, error: AttributeError | KeyError, plugin: Named, hook: str, step: Step) -> Fault | None:
        """What a hook has asked for that is not there, where the error says so."""
        where = f"plugin {plugin.name!r}"
        if isinstance(error, AttributeError):
            if error.obj is None and error.name in ("output", "features") and step.teacher is None:
                what = f"{hook} reads step.teacher, and no teacher has been called"
                return Fault(where, what, 'requires = ("teacher",), and a [teacher] table in the recipe')
            return None
        key = error.args[0] if error.args else None
        if key == plugin.name and key not in self._composition.modules_of:
            return Fault(where, f"{hook} asks for the module of {key!r}, which built none", "return it from build")
        if any(key == name for model in self._composition.models.values() for name in model.names()):
            return Fault(where, f"{hook} reads the layer {key!r}, which no tap reads", "name it in add_taps")
        return None


class _HeardSide(Side):
    """A sealed side that tells when its output is read."""

    __slots__ = ("_side", "_tell")
    _side: Side
    _tell: Callable[[], Any]

    def __init__(self, side: Side, tell: Callable[[], Any]) -> None:
        for name, value in (("_side", side), ("_tell", tell), ("features", side.features)):
            put(self, name, value)

    @property
    def output(self) -> Any:
        self._tell()
        return self._side.output

    def __setattr__(self, name: str, value: Any) -> None:
        refuse(f"side.{name}")


def _placed(error: StillhouseError, hook: str) -> StillhouseError:
    """The same with ``hook`` before what names no place, or one of the step's; a link or an option is place enough."""
    return StillhouseError(
        faults=[
            attrs.evolve(fault, where=f"{hook}: {fault.where}" if fault.where else hook)
            if not fault.where or fault.where.startswith("step.")
            else fault
            for fault in error.faults
        ]
    )


def _versions(step: Step) -> list[tuple[str, Tensor, int]]:
    found: list[tuple[str, Any]] = []
    for name, link in step.links.items():
        found += [(f"link {name!r} (student)", link.student), (f"link {name!r} (teacher)", link.teacher)]
    found += [("step.inputs", step.inputs), ("step.targets", step.targets)]
    for model, side in (("student", step.student), ("teacher", step.teacher)):
        if side is not None:
            # The slot itself: a side may refuse to be read, and nobody reads it here.
            found.append((f"step.{model}.output", Side.__dict__["output"].__get__(side)))
            found += [(f"the {model}'s layer {layer!r}", x) for layer, x in side.features.items()]
    # A tensor made in inference mode counts no versions, and autograd refuses to save it.
    return [(what, x, x._version) for what, tree in found for x in list_tensors(tree) if not x.is_inference()]


def _changed(versions: list[tuple[str, Tensor, int]], hook: str) -> list[Fault]:
    for what, tensor, version in versions:
        if tensor._version != version:  # one write shows in each view of the tensor: the first is enough
            replace = "losses only reads" if hook == "losses" else "set link.student or link.teacher to a new tensor"
            return [Fault("", f"{hook} changes {what} in place", replace)]
    return []


def _rows(step: Step) -> dict[tuple[str, str], int]:
    sides = {(name, side): getattr(link, side) for name, link in step.links.items() for side in ("student", "teacher")}
    return {key: len(x) for key, x in sides.items() if isinstance(x, Tensor) and x.ndim}


def _misshapen(step: Step, before: Mapping[tuple[str, str], int], hook: str) -> list[Fault]:
    faults = []
    for (name, side), rows in before.items():
        tensor = getattr(step.links[name], side) if name in step.links else None
        place = f"link {name!r} ({side})"
        if not isinstance(tensor, Tensor):
            faults.append(Fault("", f"{hook} sets {place} to {type(tensor).__name__}", "a tensor (B, ...)"))
        elif not tensor.ndim or len(tensor) != rows:
            what = f"{hook} makes {place} {format_shape(tensor)}, of {rows} samples"
            faults.append(Fault("", what, "keep a row for each sample"))
    return faults


def _wrong_terms(terms: Any, step: Step) -> list[Fault]:
    try:
        check_terms(terms)
    except StillhouseError as error:
        return list(error.faults)
    device = next((x.device for x in list_tensors(step.student.output)), None)
    faults = []
    for term, value in terms.items():
        if not value.is_floating_point():
            faults.append(Fault("", f"losses: the loss term {term!r} is {value.dtype}", "a floating-point scalar"))
        elif device is not None and value.device != device:
            what = f"losses: the loss term {term!r} is on {value.device}, and the student's output on {device}"
            faults.append(Fault("", what, "make tensors with device=step.student.output.device"))
        elif torch.is_grad_enabled() and not value.requires_grad:
            what = f"losses: the loss term {term!r} has no gradient"
            faults.append(
                Fault("", what, "leave a term out of the dict while it is a constant; detach() and no_grad end it")
            )
    return faults


@contextmanager
def watch_first_steps(composition: Composition, steps: int = 2) -> Iterator[None]:
    """Have the first ``steps`` steps that go through ``composition`` in this block looked at.

    The step after them puts the plain hooks back, so that no later one asks whether it is watched.
    """
    watch, plain = Watch(composition), composition.hooks
    first: int | None = None

    def around(plugin: Named, hook: str, function: Hook) -> Hook:
        watched = watch.around(plugin, hook, function)

        def call(step: Step) -> Any:
            nonlocal first
            first = step.iteration if first is None else first
            if step.iteration < first + steps:
                return watched(step)
            composition.hooks = plain
            return function(step)

        return call

    composition.hooks = plain.wrapped(around)
    try:
        yield
    finally:
        composition.hooks = plain
