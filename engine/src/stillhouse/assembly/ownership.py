"""Whose a model or a fact of the run is: what a hook may not take, or set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.parameter import is_lazy

from stillhouse.contract.assembly import Assembly
from stillhouse.contract.layers import Which
from stillhouse.distributed.finite import find_non_finite
from stillhouse.distributed.fsdp import to_local
from stillhouse.errors import Fault, StillhouseError
from stillhouse.loop.composition import Composition

__all__ = ["check_module", "find_late_parameters", "keeping_facts", "list_parameters"]

_SET_ELSEWHERE = {
    "student": "adapt returns a changed student, or another one",
    "teacher": "the recipe says which; assembly.release_teacher(self) lets go of it",
}


@contextmanager
def keeping_facts(assembly: Assembly, hook: str) -> Iterator[None]:
    """Refuse that ``hook``, which runs in this block, sets an attribute of ``assembly``.

    Raises:
        StillhouseError: it has; the attribute is as it was.
    """
    before = assembly.facts()
    yield
    for name, value in before.items():
        # best_from: exclude_from_best_until moves it.
        if name != "best_from" and getattr(assembly, name) is not value:
            setattr(assembly, name, value)
            raise StillhouseError(
                f"{hook} sets assembly.{name}", hint=_SET_ELSEWHERE.get(name, "plugins read assembly and leave it")
            )


def check_module(module: object, assembly: Assembly) -> nn.Module:
    """What a ``build`` returned, once it is a module that can be the plugin's own.

    Raises:
        StillhouseError: it is none, belongs to the run, has tensors whose shapes are not known yet, or weights that are not finite.
    """
    if not isinstance(module, nn.Module):
        raise StillhouseError(f"build gave {type(module).__name__}", hint="an nn.Module, or None")
    models = {"student": assembly.student, "teacher": assembly.teacher, **assembly.teachers}
    for which, model in models.items():
        if model is not None:
            _refuse_part_of(model, which, module)
    lazy = [name for name, x in (*module.named_parameters(), *module.named_buffers()) if is_lazy(x)]
    if lazy:
        raise StillhouseError(
            f"build gave a module whose {lazy[0]!r} has no shape yet",
            hint="make it of its final shape: assembly.links and assembly.features show what reaches the plugin",
        )
    parameters = {name for name, _ in module.named_parameters()}
    broken = [
        name for name in find_non_finite(module) if name in parameters
    ]  # a buffer may say by NaN that it is empty
    if broken:
        raise StillhouseError(f"build gave a module whose {broken[0]!r} holds values that are not finite")
    return module


def _refuse_part_of(model: nn.Module, which: str, module: nn.Module) -> None:
    parts = {id(part): name for name, part in model.named_modules()}
    parts |= {id(parameter): name for name, parameter in model.named_parameters()}
    for own, thing in (*module.named_modules(), *module.named_parameters()):
        if id(thing) not in parts:
            continue
        theirs = parts[id(thing)]
        part = f"the run's {which}" if not theirs else f"{theirs!r} of the run's {which}"
        raise StillhouseError(
            f"build gave {part}" if not own else f"build gave a module that holds {part} as {own!r}",
            hint=f"step.{which} has its output and features, step.forward({which!r}, inputs) calls it again; "
            "a network of the plugin's own is a copy: copy.deepcopy(...)",
        )


def list_parameters(composition: Composition) -> dict[str, set[str]]:
    """The parameters' names by the plugin whose module has them; the student's under the empty name."""
    modules = {"": composition.student, **composition.modules_of}
    return {owner: {name for name, _ in module.named_parameters()} for owner, module in modules.items()}


def find_late_parameters(before: dict[str, set[str]], composition: Composition) -> list[Fault]:
    """Faults of parameters that are not among those of ``before``, and so were made in a forward pass.

    The optimizer would not have them, or a resumed run would make them anew.
    """
    return [
        Fault(
            f"plugin {owner!r}" if owner else "student",
            f"the parameter {name!r} is made in a step",
            "make it in build: optimizer and checkpoint take what is there before training",
        )
        for owner, names in list_parameters(composition).items()
        for name in sorted(names - before[owner])
    ]


def refuse_shared(models: Mapping[Which, nn.Module]) -> None:
    """Refuse models that share a module, or a teacher that shares a tensor with the student.

    Freezing that teacher would freeze the student; and the taps of a module that two models call read both.

    Args:
        models: by name, ``student`` first.

    Raises:
        StillhouseError: it names the first place shared.
    """
    modules: dict[int, tuple[Which, str]] = {}
    tensors: dict[int, str] = {}
    for which, model in models.items():
        for path, module in model.named_modules():
            if id(module) in modules:
                raise _shared("module", *modules[id(module)], path, which)
        modules |= {id(module): (which, path) for path, module in model.named_modules()}
        for path, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor = to_local(tensor)
            if not tensor.numel():
                continue
            place = tensor.untyped_storage().data_ptr()
            if which == "student":
                tensors[place] = path
            elif place in tensors:
                raise _shared("tensor", "student", tensors[place], path, which)


def _shared(what: str, first: str, path: str, second_path: str, second: str) -> StillhouseError:
    return StillhouseError(
        f"{first} and {second} share the {what} {path or 'itself'!r} ({second}: {second_path or 'itself'!r})",
        where=second,
        hint="give the teacher a copy: copy.deepcopy(module)",
    )
