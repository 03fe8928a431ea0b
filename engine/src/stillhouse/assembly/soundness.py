"""Whether models are fit to be trained, read and measured: their weights, and what they answer in either mode."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from stillhouse.contract.assembly import Assembly
from stillhouse.contract.modes import keep_modes
from stillhouse.contract.step import SealedSide, Side, Step
from stillhouse.distributed.finite import find_non_finite
from stillhouse.distributed.fsdp import is_sharded
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.nested import list_tensors

__all__ = [
    "check_answers",
    "check_weights",
    "compare_modes",
    "find_frozen_in_training",
    "find_leaves",
    "find_leaves_of_measured",
    "list_names",
    "note_model",
    "read_output",
    "tell_probabilities",
]

_MANY = 10
"""So many logits are not all between 0 and 1 by chance."""


def list_names(names: Sequence[str], most: int = 4) -> str:
    """``'a', 'b' and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def check_weights(student: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    """Refuse models whose weights are not finite, wherever these are from.

    A teacher may have infinities, which take a class away for good; what is trained may not.

    Raises:
        StillhouseError: with the tensors of every model.
    """
    faults = []
    for which, model in {"student": student, **teachers}.items():
        names = find_non_finite(model, infinite=which == "student")
        if names:
            what = f"its weights hold values that are {'not finite' if which == 'student' else 'NaN'}: "
            faults.append(Fault(which, what + list_names(names), "they are damaged, or of a training that diverged"))
    raise_faults(faults)


def check_answers(step: Step) -> None:
    """Refuse a teacher that answers real samples with NaN, in its output or in a layer that is read.

    Raises:
        StillhouseError: it names the teacher, and the output or layer.
    """
    if step.teacher is None or not all(bool(torch.isfinite(x).all()) for x in _list_floats(step.inputs)):
        return  # inputs that are not finite have an error of their own
    faults = []
    for name, side in {"teacher": step.teacher, **step.teachers}.items():
        answers = {"its output": read_output(side), **{f"its layer {layer!r}": x for layer, x in side.features.items()}}
        bad = [what for what, x in answers.items() if any(bool(y.isnan().any()) for y in _list_floats(x))]
        if bad:
            what = f"{bad[0]} for the first samples is NaN"
            faults.append(Fault(name, what, "[speed] teacher_precision, or a teacher whose numbers stay within it"))
    raise_faults(faults)


def read_output(side: Side) -> Any:
    """A teacher's output; None where reading it says something, such as that its classes are not the student's.

    That is for the plugins that read it.
    """
    return side.output if type(side) is SealedSide else None


def _list_floats(tree: Any) -> list[Tensor]:
    return [x for x in list_tensors(tree) if x.is_floating_point()]


def compare_modes(composition: Composition, step: Step) -> None:
    """Refuse a student whose output has another form in eval mode: what is measured would not be what is trained.

    A tuple or a dict in one of the modes is no other form, where the output of interest can be told in both.

    Raises:
        StillhouseError: it names both forms.
    """
    student = composition.models["student"]
    with keep_modes(composition.student, training=False):
        measured = student(step.inputs, step.targets).output
    trained = _form(step.student.output)
    if _form(measured) != trained:
        raise StillhouseError(
            f"its output is {trained} in train mode and {_form(measured)} in eval mode",
            where="student",
            hint="give one output in both modes; a task that takes two forms has one_output = False",
        )


def _form(tree: Any) -> str:
    """The kind and shapes of an output, without the number of samples."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} ({', '.join(['B', *map(str, tree.shape[1:])])})"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_form(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, tuple | list):
        return "[" + ", ".join(map(_form, tree)) + "]"
    return type(tree).__name__


def tell_probabilities(output: Any) -> str:
    """Say by what an ``output`` (B, C, ...) of real samples shows that it is probabilities already; empty: it does not."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2 or output.shape[1] < 2:
        return ""
    x = output.detach().float()
    if not bool(((x >= 0) & (x <= 1)).all()) or not bool(x.any()):  # a last layer may start at zero
        return ""
    if bool(((x.sum(1) - 1).abs() < 1e-2).all()):
        return "its outputs are probabilities already, between 0 and 1 with the sum 1"
    return "its outputs are probabilities already, all between 0 and 1" if x.shape[1] >= _MANY else ""


def find_leaves_of_measured(composition: Composition, step: Step) -> set[int]:
    """The ids of the tensors that the student's output in eval mode is computed from; empty where it cannot be told."""
    if is_sharded(composition.student):
        return set()
    with keep_modes(composition.student, training=False), torch.enable_grad():
        output = composition.models["student"](step.inputs, step.targets).output
    found: set[int] = set()
    for x in list_tensors(output):
        leaves, is_whole = find_leaves(x)
        if not is_whole:
            return set()
        found |= leaves
    return found


def find_leaves(value: Tensor) -> tuple[set[int], bool]:
    """The ids of the leaves that ``value`` was computed from, and whether they are all.

    A function written in Python, as reentrant checkpointing is, may have used others without showing them.
    """
    leaves: set[int] = set()
    seen: set[Any] = set()
    left = [value.grad_fn]
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            return leaves, False
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        left += [function for function, _ in node.next_functions]
    return leaves, True


def find_frozen_in_training(module: nn.Module, path: str = "") -> dict[str, str]:
    """The frozen networks in ``module`` that are in train mode though it changes them, by path, each in a sentence.

    A network is frozen where it has parameters and trains none. A lone BatchNorm is no network: whoever freezes its scale and shift
    may want its statistics to follow.

    Args:
        module: what a plugin has built, or a part of it.
        path: of ``module`` in the plugin's module.
    """
    parameters = list(module.parameters())
    if not parameters or any(p.requires_grad for p in parameters):
        found: dict[str, str] = {}
        for name, child in module.named_children():
            found |= find_frozen_in_training(child, f"{path}.{name}" if path else name)
        return found
    parts = list(module.named_modules(prefix=path))
    if all(isinstance(part, _BatchNorm) or not list(part.parameters(recurse=False)) for _, part in parts):
        return {}
    moving = [
        name for name, part in parts if part.training and isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    drawing = [name for name, part in parts if part.training and isinstance(part, _DropoutNd) and part.p > 0]
    told = [f"the statistics of {list_names(moving, 1)} move"] if moving else []
    told += [f"{list_names(drawing, 1)} drops out at random"] if drawing else []
    place = f"the frozen network {path!r} of its module" if path else "the frozen network that build gives"
    return {path: f"{place} is in train mode in steps: {' and '.join(told)}"} if told else {}


def note_model(assembly: Assembly, notes: list[str], text: str) -> None:
    """Have ``explain`` show what is probably not meant, and a run that will be trained warn of it."""
    notes.append(text)
    if not assembly.inspect_only:
        warnings.warn(text, StillhouseWarning, stacklevel=2)
