"""What a model returns, brought to what a task reads: a dict's or tuple's one output of interest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from stillhouse.errors import StillhouseError

__all__ = ["find_reader"]

_KEYS = ("out", "logits", "predicted_depth", "reconstruction", "last_hidden_state", "output")
"""Where torchvision (``out``) and Hugging Face (``logits``, ...) keep the output of interest."""


def find_reader(output: Any, which: str) -> Callable[[Any], Any] | None:
    """How to get the output of interest from what ``which`` model returned, found once at assembly.

    Args:
        output: what the model's ``forward`` returned for a small batch.
        which: ``student`` or ``teacher``, for messages.

    Returns:
        A function from such a return value to the output; None where it is the output itself.

    Raises:
        StillhouseError: a dict or tuple in which the output of interest cannot be told.
    """
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        for key in _KEYS:
            if isinstance(output.get(key), Tensor):
                return lambda value: value[key]
        raise StillhouseError(
            f"returns a dict of {', '.join(map(str, output)) or 'nothing'}",
            where=which,
            hint=f"give the output under one of {', '.join(_KEYS)}, or wrap the model in one whose forward returns a tensor",
        )
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return lambda value: value[0]
    return None
