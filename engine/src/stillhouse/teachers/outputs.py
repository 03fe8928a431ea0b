"""A teacher that was trained on other classes gives its output in the student's order of them, or says why it can't."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.sealed import put
from stillhouse.contract.step import SealedSide, Side
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.teachers.inputs import InputConversion

__all__ = ["OutputConversion", "fit_outputs", "name_outputs"]

_SHOWN = 3
"""Names that a message has of a list."""


def name_outputs(task: Task, info: DataInfo) -> tuple[str, ...]:
    """The classes that a model's outputs stand for, in order; empty where they are no classes, but depths, say."""
    names = task.class_names(info)
    background = 1 if info.target == "boxes" else 0
    # A task that takes images without targets makes its own, and the folders' names are none of its outputs'.
    return names if "none" not in task.takes and task.outputs(info) == len(names) + background else ()


def fit_outputs(
    teacher: nn.Module,
    own: Sequence[str] | None,
    names: Sequence[str],
    where: str,
    *,
    refusal: str = "",
) -> list[str]:
    """Have whoever reads ``teacher``'s output find the student's classes in it, in the student's order.

    Features need none of this: a teacher whose classes are others stays, and only a plugin that reads its output is
    refused, when it does. Maps of a teacher whose images were resized are brought back to the size of the student's.

    Args:
        teacher: the frozen model, its inputs fitted.
        own: the classes of its outputs, in order; empty: they are no classes; None: nobody says.
        names: the student's, likewise.
        where: the recipe's key that names it, for the fault.
        refusal: why its output is of no use to anybody; empty: it may be.

    Returns:
        What is done, in words.
    """
    order: list[int] | None = None
    told: list[str] = []
    hint = "train it by a recipe first: teacher.recipe; its layers can be read" if refusal else _ADVICE
    if not refusal and own is not None and tuple(own) != tuple(names):
        strange = [name for name in names if name not in own]
        if names and own and not strange:
            order = [list(own).index(name) for name in names]
            fewer = f"{len(names)} of its {len(own)} classes" if len(names) < len(own) else "its classes"
            told.append(f"outputs: {fewer}, in the student's order ({_list(names)})")
        else:
            refusal = _explain(own, names, strange)
    unsaid = bool(not refusal and own is None and names)
    conversion = next((h for h in teacher._forward_pre_hooks.values() if isinstance(h, InputConversion)), None)
    if refusal:
        told.append(f"outputs: not to be read, since {refusal}")
    elif unsaid:
        told.append("outputs: nothing says which classes; taken to be the student's, in the student's order")
    if order is not None or refusal or unsaid or (conversion is not None and conversion.size is not None):
        error = StillhouseError(refusal, where=where, hint=hint) if refusal else None
        count = len(own) if order is not None and own else None
        made: Any = OutputConversion(where, order, count, error, unsaid=unsaid, inputs=conversion)
        teacher.stillhouse_convert = made  # what calls the model asks for it
        teacher._stillhouse_order = order  # type: ignore[assignment]  # plain data, so that a cache's key has it
    return told


_ADVICE = (
    'classes = ["...", ...] names its outputs in order by the student\'s names, classes = "same" says that they are the '
    "student's; layers can be read whatever the classes"
)


def _explain(own: Sequence[str], names: Sequence[str], strange: Sequence[str]) -> str:
    if not own:
        return f"the teacher's outputs are no classes, and the student's are {_list(names)}"
    if not names:
        return f"the teacher's outputs are the classes {_list(own)}, and the student's are no classes"
    return f"the student's classes {_list(strange)} are none of the teacher's, {_list(own)}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


class _AskedSide(SealedSide):
    """A side whose output is got when somebody reads it, by the function that stands in its place."""

    __slots__ = ()
    output = property(lambda self: Side.__dict__["output"].__get__(self)())


class OutputConversion:
    """From a teacher's output to that of the student's classes; called with each side that the teacher gives.

    Args:
        where: the recipe's key that names the teacher.
        order: for each of the student's classes, its place in the output's second dimension; None: as it is.
        count: how many classes the output must have; None: any number.
        error: raised when somebody reads the output; None: it may be read.
        unsaid: warn when somebody reads it that nothing says which classes it has.
        inputs: what converts the teacher's inputs, which knows by how much maps have to be resized back; None: nothing.
    """

    def __init__(
        self,
        where: str,
        order: list[int] | None,
        count: int | None,
        error: StillhouseError | None,
        *,
        unsaid: bool,
        inputs: InputConversion | None,
    ) -> None:
        self._where, self._order, self._count, self._error = where, order, count, error
        self._unsaid, self._inputs = unsaid, inputs
        self._index: Tensor | None = None

    def find_order(self) -> list[int] | None:
        """See :func:`stillhouse.outputs.find_class_order`.

        Raises:
            StillhouseError: the output may not be read.
        """
        if self._error is not None:
            raise self._error
        return self._order

    def __call__(self, side: Side) -> Side:
        """The same side with its output converted; who reads it is told what has to be said, and who does not is not."""
        if self._error is not None:
            return _ask(side, partial(_refuse, self._error))
        output = self._restore_size(side.output)
        if self._unsaid:
            return _ask(side, partial(self._warn, output))
        if self._order is not None and not self._fits(output):
            got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            what = f"its outputs must be {self._count} classes, to be brought into the student's order, got {got}"
            return _ask(side, partial(_refuse, StillhouseError(what, where=self._where)))
        put(side, "output", output if self._order is None else self._reorder(output))
        return side

    def _warn(self, output: Any) -> Any:
        if self._unsaid:
            self._unsaid = False
            text = (
                f"{self._where}: nothing says which classes its outputs are; taken to be the student's, in the student's "
                'order: classes = "same" says so, classes = [...] names others'
            )
            warnings.warn(text, StillhouseWarning, stacklevel=2)
        return output

    def _restore_size(self, output: Any) -> Any:
        stretch = None if self._inputs is None else self._inputs.stretch
        if stretch is None or not isinstance(output, Tensor) or output.ndim != 4:
            return output
        size = [max(1, round(n * by)) for n, by in zip(output.shape[-2:], stretch, strict=True)]
        return interpolate(output.float(), size, mode="bilinear", align_corners=False)

    def _fits(self, output: Any) -> bool:
        return isinstance(output, Tensor) and output.ndim > 1 and output.shape[1] == self._count

    def _reorder(self, output: Tensor) -> Tensor:
        if self._index is None or self._index.device != output.device:
            self._index = torch.tensor(self._order, device=output.device)
        return output.index_select(1, self._index)


def _ask(side: Side, get: Callable[[], Any]) -> Side:
    put(side, "output", get)
    put(side, "__class__", _AskedSide)
    return side


def _refuse(error: StillhouseError) -> Any:
    raise StillhouseError(faults=error.faults)
