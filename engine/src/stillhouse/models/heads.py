"""New last layers for another number of classes: in a published model, and around a checkpoint.

A head is found by comparison: what differs between two models of one architecture, built for different numbers of
classes, is what depends on that number. So it need not be known where a detector or a segmentation network keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillhouse.errors import StillhouseError

__all__ = ["load_but_heads", "put_new_heads"]

_COUNTS = ("num_classes", "num_columns")
"""Where torchvision's detection heads keep the number of classes, which they reshape their output by."""


def put_new_heads(published: nn.Module, fresh: nn.Module) -> list[str]:
    """Replace in ``published`` every layer whose parameters differ in shape from ``fresh``'s by that of ``fresh``.

    Args:
        published: with the published weights, for their number of classes.
        fresh: the same architecture for the number of classes that is wanted, freshly initialised.

    Returns:
        The dotted paths of the replaced layers.
    """
    replaced = []
    modules = dict(published.named_modules())
    for name, wanted in fresh.named_modules():
        given = modules.get(name)
        if given is None:
            continue
        own = {k: p.shape for k, p in given.named_parameters(recurse=False)}
        if own != {k: p.shape for k, p in wanted.named_parameters(recurse=False)}:
            published.set_submodule(name, wanted)
            replaced.append(name)
        elif type(given) is type(wanted):
            for key in _COUNTS:
                if isinstance(getattr(wanted, key, None), int):
                    setattr(given, key, getattr(wanted, key))
    return replaced


def load_but_heads(model: nn.Module, path: Path, replace_head: bool) -> None:
    """Load the weights in ``path`` into ``model``; with ``replace_head`` all but the layers of another number of outputs.

    Raises:
        StillhouseError: missing, damaged, pickled, or another model's.
    """
    from stillhouse.models.weights import (
        load_state,
        read_weights,  # which imports this package
    )

    state = dict(read_weights(path))
    if replace_head:
        state.update(_heads_of(model, state))
    try:
        load_state(model, state, str(path))
    except StillhouseError as error:
        heads = [] if replace_head else list(_heads_of(model, state))
        if heads and _agrees(model, {**state, **_heads_of(model, state)}):
            raise StillhouseError(
                f"is of another number of classes: {', '.join(heads[:4])}",
                where=str(path),
                hint="replace_head = true starts these layers anew",
            ) from None
        raise error


def _heads_of(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's own tensors for which ``state`` has one that differs in the first dimension alone: the outputs'."""
    found = {}
    for key, own in model.state_dict().items():
        given = state.get(key)
        if not isinstance(given, Tensor) or given.ndim != own.ndim or own.ndim == 0:
            continue
        if given.shape[0] != own.shape[0] and given.shape[1:] == own.shape[1:]:
            found[key] = own
    return found


def _agrees(model: nn.Module, state: Mapping[str, Any]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(own[k].shape == getattr(state[k], "shape", None) for k in own)
