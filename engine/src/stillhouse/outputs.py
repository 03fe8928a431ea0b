"""What a model returns, brought to what a task reads: a dict's or tuple's one output of interest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from stillhouse.errors import StillhouseError

__all__ = ["find_class_order", "find_reader", "read_output"]

_KEYS = ("out", "logits", "predicted_depth", "reconstruction", "last_hidden_state", "output")
"""Where torchvision (``out``) and Hugging Face (``logits``, ...) keep the output of interest."""


def find_reader(output: Any, which: str) -> Callable[[Any], Any] | None:
    """How to get the output of interest from what ``which`` model returned, found once for train mode and once for eval mode.

    Of a dict it is the tensor under a known name, of a tuple the first one. What comes besides is left alone: the
    further heads of some models in training (``aux``) have no loss here. A plain tensor is let through. Depths (B, H, W) of Hugging Face's models get their channel. A dict of nothing but scalars is a detector's losses, and a list of dicts its
    boxes: they are for the task as they are. So is what cannot be told of a teacher, of which most methods read layers
    only; one that reads its output says what it misses.

    Args:
        output: what the model's ``forward`` returned for a small batch.
        which: ``student`` or ``teacher``, for messages.

    Returns:
        A function from such a return value to the output; None where it is the output itself.

    Raises:
        StillhouseError: the student gives a dict or tuple in which the output of interest cannot be told.
    """
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        for key in _KEYS:
            if isinstance(output.get(key), Tensor):
                if key == "predicted_depth" and output[key].ndim == 3:
                    return lambda value: value[key].unsqueeze(1)
                return lambda value: value if isinstance(value, Tensor) else value[key]
        losses = output and all(isinstance(value, Tensor) and value.ndim == 0 for value in output.values())
        if losses or which == "teacher":
            return None
        raise StillhouseError(
            f"returns a dict of {', '.join(map(str, output)) or 'nothing'}",
            where=which,
            hint=f"give the output under one of {', '.join(_KEYS)}, or wrap the model in one whose forward returns a tensor",
        )
    if isinstance(output, tuple | list):
        if output and isinstance(output[0], Tensor):
            return lambda value: value if isinstance(value, Tensor) else value[0]
        if all(isinstance(value, Mapping) for value in output):
            return None
    if which == "teacher":
        return None
    what = type(output).__name__
    if isinstance(output, tuple | list):
        what += f" of {', '.join(type(value).__name__ for value in output[:4])}"
    raise StillhouseError(
        f"returns {what}",
        where=which,
        hint="a tensor, a tuple whose first is one, or a dict; or wrap the model in one whose forward returns a tensor",
    )


def find_class_order(teacher: nn.Module) -> list[int] | None:
    """For each of the student's classes its place in what ``teacher``'s own layers give; None: as they are.

    A step's ``teacher.output`` is in the student's order already. This is for a plugin that takes over a teacher's layer.

    Raises:
        StillhouseError: its outputs are other classes.
    """
    conversion: Any = getattr(teacher, "stillhouse_convert", None)
    order: list[int] | None = None if conversion is None else conversion.find_order()
    return order


def read_output(output: Any, which: str) -> Any:
    """The output of interest in what ``which`` model returned once: see :func:`find_reader`."""
    read = find_reader(output, which)
    return output if read is None else read(output)
