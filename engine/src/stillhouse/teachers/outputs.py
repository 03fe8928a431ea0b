"""A teacher that was trained on other classes gives its output in the student's order of them, or says why it can't."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.step import Asked
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.loop.tapped_model import CONVERT_OUTPUT
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
        error = StillhouseError(refusal, where=where, hint=_ADVICE) if refusal else None
        count = len(own) if order is not None and own else None
        setattr(teacher, CONVERT_OUTPUT, OutputConversion(where, order, count, error, unsaid=unsaid, inputs=conversion))
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


class OutputConversion:
    """From a teacher's output to that of the student's classes; called with each output.

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

    def __call__(self, output: Any) -> Any:
        """What stands in the place of ``output``; an :class:`Asked` where its reader has to be told something."""
        if self._error is not None:
            return Asked(self._refuse)
        output = self._restore_size(output)
        if self._unsaid:
            return Asked(lambda: self._warn(output))
        return output if self._order is None else self._reorder(output)

    def _refuse(self) -> Any:
        assert self._error is not None  # it is only called then
        raise StillhouseError(faults=self._error.faults)

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

    def _reorder(self, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[1] != self._count:
            got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            what = f"its outputs must be {self._count} classes, to be brought into the student's order, got {got}"
            error = StillhouseError(what, where=self._where)
            return Asked(lambda: _raise(error))
        if self._index is None or self._index.device != output.device:
            self._index = torch.tensor(self._order, device=output.device)
        return output.index_select(1, self._index)


def _raise(error: StillhouseError) -> Any:
    raise error
