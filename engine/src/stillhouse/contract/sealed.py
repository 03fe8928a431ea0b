"""What may be written while a step is under way: the dicts that are read only, and whose hook owns what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TypeVar

from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.nested import list_tensors

__all__ = [
    "Features",
    "Links",
    "Losses",
    "Metrics",
    "SealedDict",
    "Teachers",
    "Weights",
    "check_replacement",
    "put",
    "refuse",
]

V = TypeVar("V")

OWNERS = {
    "step.inputs": 'prepare_batch replaces it, in a plugin with changes = ("inputs",)',
    "step.targets": 'prepare_batch replaces it, in a plugin with changes = ("targets",)',
    "step.ids": 'prepare_batch replaces it, in a plugin with changes = ("ids",)',
    "step.batch": "prepare_batch replaces step.inputs, step.targets and step.ids",
    "step.student": "step.forward('student', inputs) is another pass; transform replaces link.student",
    "step.teacher": "teacher_forward replaces it: step.teacher = Side(output, features)",
    "step.teachers": "teacher_forward fills it: step.teachers['assistant'] = Side(output, features)",
    "step.links": "add_links makes links; transform replaces link.student and link.teacher",
    "step.losses": "the hook losses returns terms",
    "step.weights": "a term's weight is its plugin's option `weight`, which may be a schedule; "
    "sample_weights weighs the task's loss",
    "step.total": "combine_gradients returns the gradients that are applied; a term of the total is what losses returns",
    "step.memo": "write into it: step.memo['mine'] = ...",
    "link": "transform replaces link.student and link.teacher",
    "side": "teacher_forward gives another: step.teacher = Side(output, features); transform replaces what a link has",
    "run.metrics": "the hook metrics gives ignite metrics, which are measured",
    "run": "what a plugin keeps lies in the module that its build returns, or in step.memo",
}
"""The hook that owns a thing, or the line to write, by what somebody tries to write."""

_SCRATCH = "step.memo is a plugin's own scratch"

put: Callable[[Any, str, Any], None] = object.__setattr__
"""Write an attribute of what is sealed, as the engine does."""


def refuse(name: str) -> NoReturn:
    """Refuse a write.

    Args:
        name: ``step.total``, ``link.student``, ``side.output``, ...

    Raises:
        StillhouseError: always; it names the hook that owns the thing.
    """
    owner = OWNERS.get(name) or OWNERS.get(name.partition(".")[0], _SCRATCH)
    raise StillhouseError("cannot be written here", where=name, hint=owner)


class SealedDict(dict[str, V]):
    """A dict that is read only; the engine fills it with ``dict.__setitem__``. A copy of it is a plain dict."""

    __slots__ = ()

    place: ClassVar[str] = ""
    """Where it lies, for messages."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _refuse_item(self: SealedDict[Any], *_arguments: Any, **_more: Any) -> NoReturn:
    refuse(self.place)


for _name in ("__setitem__", "__delitem__", "__ior__", "update", "pop", "popitem", "clear", "setdefault"):
    setattr(SealedDict, _name, _refuse_item)


class Links(SealedDict[V]):
    """A step's links."""

    __slots__ = ()
    place = "step.links"


class Losses(SealedDict[V]):
    """A step's loss terms."""

    __slots__ = ()
    place = "step.losses"


class Weights(SealedDict[V]):
    """The terms' weights."""

    __slots__ = ()
    place = "step.weights"


class Teachers(SealedDict[V]):
    """What a step's further teachers gave."""

    __slots__ = ()
    place = "step.teachers"


class Features(SealedDict[V]):
    """What a model's tapped layers gave."""

    __slots__ = ()
    place = "side.features"


class Metrics(SealedDict[V]):
    """A run's metrics by split."""

    __slots__ = ()
    place = "run.metrics"


def check_replacement(name: str, new: Any, old: Any, rows: int) -> None:
    """Look at what ``prepare_batch`` puts in the place of a step's inputs, targets or ids.

    Args:
        name: which of them.
        new: the replacement.
        old: what is there.
        rows: the batch's samples.

    Raises:
        StillhouseError: another number of samples, another shape of one, another device, or a gradient.
    """
    where = f"step.{name}"
    tensors, before = list_tensors(new), list_tensors(old)
    if name == "ids" and not (isinstance(new, Tensor) and new.dtype == old.dtype and new.shape == old.shape):
        raise StillhouseError(f"must be int64 of shape ({rows},), got {_describe(new)}", where=where)
    if name == "inputs" and [x.shape for x in tensors] != [x.shape for x in before]:
        raise StillhouseError(
            f"must keep the number of samples and the shape of one, {_describe(old)}, got {_describe(new)}", where=where
        )
    if isinstance(old, Tensor) and not isinstance(new, Tensor):
        raise StillhouseError(f"must be a tensor as before, got {type(new).__name__}", where=where)
    if name == "targets" and _count_rows(new, rows) != rows:
        raise StillhouseError(f"must have a target for each of the {rows} samples, got {_describe(new)}", where=where)
    if tensors and before and tensors[0].device != before[0].device:
        raise StillhouseError(f"must be on {before[0].device}, got a tensor on {tensors[0].device}", where=where)
    if any(x.requires_grad for x in tensors):
        raise StillhouseError("must have no gradient", where=where, hint=f"{where} = x.detach()")


def _count_rows(value: Any, rows: int) -> int:
    if isinstance(value, Tensor):
        return len(value) if value.ndim else 0
    if isinstance(value, list):
        return len(value)
    return next((len(x) if x.ndim else 0 for x in list_tensors(value) if not x.ndim or len(x) != rows), rows)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return ", ".join(_describe(x) for x in list_tensors(value)) or type(value).__name__
