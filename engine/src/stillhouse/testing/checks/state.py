"""Checks of what a plugin keeps: in its module alone, and nothing once the run is over."""

from __future__ import annotations

import gc
import random
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from stillhouse.loop.phases import Phase
from stillhouse.nested import list_tensors, map_tensors
from stillhouse.testing.report import Finding
from stillhouse.testing.subject import Subject

__all__ = ["check_globals", "check_leftovers", "check_module_state", "check_outer_state"]

_OWN = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SEEDERS = ((torch, "manual_seed"), (torch.random, "manual_seed"), (random, "seed"), (numpy.random, "seed"))


def check_module_state(subject: Subject) -> Iterator[Finding]:
    """Are all tensors of its module parameters or buffers?"""
    run = subject.whole.training.run
    module = run.composition.modules_of.get(subject.name)
    models = [run.student, *run.all_teachers.values(), *([] if module is None else [module])]
    seen = {part for model in models for part in model.modules()}
    # A layer may have a second way to its own: an LSTM's flat weights.
    kept = {id(tensor) for part in seen for tensor in (*part.parameters(), *part.buffers())}
    for path, part in [] if module is None else module.named_modules():
        for name, value in vars(part).items():
            place = ".".join(filter(None, (path, name)))
            if name not in _OWN and any(id(tensor) not in kept for tensor in list_tensors(value)):
                yield Finding(
                    f"{place} of its module holds a tensor that is no parameter and no buffer: "
                    "no checkpoint has it, and it does not move with the module",
                    f"self.register_buffer({name!r}, ...), with persistent=False for what can be computed again",
                )
            elif name not in _OWN and _holds_module(value, seen):
                yield Finding(
                    f"{place} of its module holds a module that is no part of it: "
                    "its parameters are in no optimizer and no checkpoint, and it does not move with the module",
                    f"self.{name} = nn.ModuleList(...) or nn.ModuleDict(...) in place of a list or a dict",
                )


def _holds_module(value: Any, known: set[nn.Module]) -> bool:
    """Whether a list, tuple or dict has a module with tensors of its own, which is none of ``known``."""
    found: list[nn.Module] = []
    map_tensors(found.append, value, nn.Module)
    return any(module not in known and module.state_dict() for module in found)


def check_outer_state(subject: Subject) -> Iterator[Finding]:
    """Do class and modules hold after a run what they held before?"""
    places: dict[str, Any] = {f"class {subject.cls.__name__}": subject.cls}
    places |= {name: sys.modules[name] for name in subject.author.modules}
    before = {place: _fingerprint(vars(owner)) for place, owner in places.items()}
    subject.fit()
    for place, owner in places.items():
        now = _fingerprint(vars(owner))
        for name in sorted({*before[place], *now}):
            if before[place].get(name) != now.get(name):
                yield Finding(
                    f"a run changes {name!r} of {place}: the next run of the process begins with it, and no checkpoint has it",
                    "keep it in the module that build returns, or in step.memo for the time of a step",
                )


def _fingerprint(values: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the values of plain data and tensors apart, by name; other objects are left out."""
    found: dict[str, Any] = {}
    for name, value in list(values.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, Tensor):
            found[name] = (id(value), value._version)
        elif isinstance(value, list | tuple | dict | set | deque):
            found[name] = _summarise(value)
        elif isinstance(value, int | float | str | bool | None):
            found[name] = value
    return found


def _summarise(value: Any) -> Any:
    if isinstance(value, dict):
        return [(str(key)[:80], _summarise(inner)) for key, inner in value.items()]
    if isinstance(value, list | tuple | deque):
        return [_summarise(inner) for inner in value]
    if isinstance(value, set):
        return len(value)
    if isinstance(value, Tensor):
        return (id(value), value._version)
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def check_leftovers(subject: Subject) -> Iterator[Finding]:
    """Are models free of its hooks, and a step's tensors free to go, once the run is over?"""
    plain = {} if subject.plain is None else _count_hooks(subject.plain.training.run.student)
    kept: list[weakref.ref[Tensor]] = []
    training = subject.prepare()
    trainer = training.run.trainer

    def keep(engine: Any) -> None:
        if engine.state.iteration == 1:
            step = engine.state.step
            kept.extend(weakref.ref(x) for x in list_tensors(step.student.output))
            kept.extend(weakref.ref(x) for link in step.links.values() for x in (link.student, link.teacher))
            kept.append(weakref.ref(step.total))

    trainer.add_event_handler(Phase.LOSSES_COMPUTED, keep)
    ended = subject.finish(training)
    for which, model in {"student": ended.training.run.student, **ended.training.run.all_teachers}.items():
        for name, count in _count_hooks(model).items():
            if count > (plain.get(name, 0) if which == "student" else 0):
                yield Finding(
                    f"a hook is left on {name!r} of the {which}",
                    "read layers by add_taps and step.tapped; a handle of your own is removed in completed and exception_raised",
                )
    gc.collect()
    if any(reference() is not None for reference in kept):
        yield Finding(
            "tensors of the first step are still there after the last one",
            "keep detached copies of what is needed, .detach().clone(), in a buffer",
        )
    module = training.run.composition.modules_of.get(subject.name)
    for name, buffer in [] if module is None else module.named_buffers():
        if buffer.grad_fn is not None:
            yield Finding(
                f"the buffer {name!r} holds the graph of every step before",
                "write it under torch.no_grad(), or from a detached value",
            )


def _count_hooks(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, part in model.named_modules():
        found[path] = sum(len(getattr(part, name)) for name in _HOOKS if isinstance(getattr(part, name, None), dict))
    for path, parameter in model.named_parameters():
        found[path] = len(parameter._backward_hooks or {})
    return found


def check_globals(subject: Subject) -> Iterator[Finding]:
    """Does it leave random seeds and torch's settings alone?"""
    before = _settings()
    seen: list[str] = []
    with _watching_seeds(subject, seen):
        subject.fit()
    for place in dict.fromkeys(seen):
        yield Finding(
            f"sets the seed of the whole process in {place}: every later draw of the run is another",
            "draw from a torch.Generator of your own",
        )
    for name, value in _settings().items():
        if before[name] != value:
            yield Finding(
                f"leaves torch with {name} = {value}, and {before[name]} before", "set it for a while: `with`"
            )


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "filters of warnings": len(warnings.filters),
    }


@contextmanager
def _watching_seeds(subject: Subject, seen: list[str]) -> Iterator[None]:
    kept = [(owner, name, getattr(owner, name)) for owner, name in _SEEDERS]

    def watched(original: Any) -> Any:
        def seed(*arguments: Any, **named: Any) -> Any:
            place = subject.author.find(innermost=True)
            if place:
                seen.append(place)
            return original(*arguments, **named)

        return seed

    try:
        for owner, name, original in kept:
            setattr(owner, name, watched(original))
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)
