"""The optimizer, from torch by name or from anywhere by its path."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse.config.references import import_object
from stillhouse.config.run import OptimizerSpec
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.layers import match_names
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, first_line, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks, named_values
from stillhouse.training.fused import choose_fused, take_fused_steps
from stillhouse.training.parameter_groups import group_student

__all__ = ["build_optimizer", "find_optimizer"]

_KNOWN: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, Optimizer) and cls is not Optimizer
}

_UNFIT = {
    "lbfgs": "calls the model several times in one step, and a step here has one forward pass",
    "sparseadam": "takes sparse gradients alone, which the models' are not",
}


def find_optimizer(spec: OptimizerSpec, assembly: Assembly) -> type[Optimizer]:
    """The class that ``spec`` names.

    Raises:
        StillhouseError: no such optimizer, or arguments it does not take.
    """
    why_not = _UNFIT.get(spec.name.lower())
    if why_not is not None:
        raise StillhouseError(f"{spec.name} {why_not}", where="optimizer.name", hint="adamw, sgd, ...")
    cls: Any = _KNOWN.get(spec.name.removeprefix("torch.optim:").lower())
    if cls is None and ":" in spec.name:
        cls = import_object(spec.name, "optimizer.name", assembly.recipe.base)
    if cls is None:
        raise StillhouseError(
            f"unknown optimizer {spec.name!r}", where="optimizer.name", hint=did_you_mean(spec.name, _KNOWN)
        )
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)) or cls is Optimizer:
        what = f"{spec.name!r} must be a class of optimizers, got {type(cls).__name__} {_get_name(cls)}"
        raise StillhouseError(what, where="optimizer.name", hint="a subclass of torch.optim.Optimizer")
    takes = [p for p in inspect.signature(cls).parameters if p not in ("params", "lr")]
    given = {**spec.args, **({} if spec.weight_decay is None else {"weight_decay": spec.weight_decay})}
    for key in given:
        if key not in takes:
            place = "optimizer.weight_decay" if key == "weight_decay" else f"optimizer.args.{key}"
            raise StillhouseError(f"{spec.name} has no argument {key!r}", where=place, hint=did_you_mean(key, takes))
    return cls


def _get_name(value: Any) -> str:
    return str(getattr(value, "__qualname__", ""))


def build_optimizer(spec: OptimizerSpec, assembly: Assembly, composition: Composition, hooks: Hooks) -> Optimizer:
    """The student's parameter groups (:mod:`stillhouse.training.parameter_groups`), and one for each plugin's module.

    Raises:
        StillhouseError: an unknown optimizer or option, or nothing to train.
    """
    cls = find_optimizer(spec, assembly)
    args: dict[str, Any] = {"lr": spec.lr, **spec.args}
    if spec.weight_decay is not None:
        args["weight_decay"] = spec.weight_decay
    student = {name: p for name, p in composition.student.named_parameters() if p.requires_grad}
    if not student:
        raise StillhouseError("has no trainable parameter", where="student")
    groups: list[dict[str, Any]] = []
    options = {
        plugin.name: dict(named_values(plugin, "optimizer_options", function, assembly))
        for plugin, function in hooks.calls("optimizer_options")
    }
    for plugin in assembly.plugins:
        key = f"plugin_{plugin.name}"
        parameters = (
            [p for p in composition.plugins[key].parameters() if p.requires_grad] if key in composition.plugins else []
        )
        own = options.get(plugin.name, {})
        taken = _find_taken(own.pop("student", ()), student, composition.student, plugin.name)
        parameters += [student.pop(name) for name in dict.fromkeys(taken)]
        if not parameters:
            continue
        _refuse_wrong(own, plugin.name)
        groups.append({"params": parameters, "name": plugin.name, **_known_only(own, cls, plugin.name)})
    args |= choose_fused(cls, args, composition, assembly.recipe.run.precision)
    try:
        optimizer = cls([*group_student(composition.student, student, spec), *groups], **args)
    except (Exception, SystemExit) as error:  # its arguments may be anything, and it somebody's own
        given = ", ".join(f"{key} = {value!r}" for key, value in args.items())
        raise StillhouseError(f"{cls.__name__} with {given}: {first_line(error)}", where="optimizer") from error
    if any(group.get("fused") for group in optimizer.param_groups):
        take_fused_steps(optimizer)
    return optimizer


def _find_taken(patterns: Any, left: Mapping[str, nn.Parameter], student: nn.Module, plugin: str) -> list[str]:
    """The names of the student's parameters that a plugin takes into its group."""
    where = f"plugin {plugin!r}"
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        what = f"optimizer_options' student must be a list of globs over the student's parameters, got {patterns!r}"
        raise StillhouseError(what, where=where, hint='{"student": ["head.*"]}')
    taken = []
    for pattern in patterns:
        every = {
            **dict(student.named_parameters()),
            **dict(student.named_buffers()),
        }  # also what is frozen, or not trained here
        if not match_names(pattern, every):
            near = did_you_mean(pattern, left)
            what = f"{where}: optimizer_options' student: {pattern!r} matches none of the student's parameters, {near}"
            warnings.warn(what, StillhouseWarning, stacklevel=2)
        taken += match_names(pattern, left)
    return taken


def _refuse_wrong(own: Mapping[str, Any], plugin: str) -> None:
    """Refuse a rate or a decay that is no number, or below 0: torch looks at those of the optimizer, and at no group's."""
    raise_faults(
        Fault(f"plugin {plugin!r}", f"optimizer_options' {key} must be a finite number >= 0, got {own[key]!r}")
        for key in ("lr", "weight_decay")
        if key in own
        and not (
            isinstance(own[key], int | float | Tensor) and not isinstance(own[key], bool) and 0 <= own[key] < math.inf
        )
    )


def _known_only(own: dict[str, Any], cls: type[Optimizer], plugin: str) -> dict[str, Any]:
    """What of a plugin's options this optimizer knows. torch takes any key of a group and ignores it in silence.

    An option that other optimizers have is left out (SGD without weight decay has none to switch off); a key that no
    parameter of the optimizer is near to is a mistake.
    """
    takes = set(inspect.signature(cls).parameters) - {"params"}
    everywhere = {p for known in _KNOWN.values() for p in inspect.signature(known).parameters}
    for key in own:
        if key not in takes and key not in everywhere:
            raise StillhouseError(
                f"optimizer_options names {key!r}, which {cls.__name__} does not have",
                where=f"plugin {plugin!r}",
                hint=did_you_mean(key, takes),
            )
    return {key: value for key, value in own.items() if key in takes}
