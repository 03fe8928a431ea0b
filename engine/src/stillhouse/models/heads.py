"""New last layers for another number of classes: in a published model, and around a checkpoint.

A head is found by comparing two models of one architecture, built for different numbers of classes: the layers that
differ depend on that number. So a detector's or a segmentation network's head need not be known by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.models.state_dicts import Choice
from stillhouse.models.weights import load_state, read_fitting

__all__ = ["find_heads", "load_but_heads", "load_or_count_classes", "put_new_heads"]

_COUNTS = ("num_classes", "num_columns")
"""Attributes in which torchvision's detection heads keep the number of classes, by which they reshape their output."""


def put_new_heads(published: nn.Module, fresh: nn.Module) -> list[str]:
    """Replace in ``published`` every layer whose parameters differ in shape from ``fresh``'s by that of ``fresh``.

    Args:
        published: with the published weights, for their number of classes.
        fresh: the same architecture for the wanted number of classes, freshly initialised.

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


def load_but_heads(model: nn.Module, path: Path, replace_head: bool, choice: Choice | None = None) -> list[str]:
    """Load the weights in ``path`` into ``model``; with ``replace_head`` all but the layers of another number of outputs.

    Returns:
        What was done to make them fit, in words.

    Raises:
        StillhouseError: missing, damaged, pickled, or another model's.
    """
    state, told = read_fitting(model, path, choice)
    if replace_head:
        state.update(find_heads(model, state))
    try:
        load_state(model, state, str(path))
    except StillhouseError as error:
        heads = {} if replace_head else find_heads(model, state)
        if heads and _agrees(model, {**state, **heads}):
            raise StillhouseError(
                f"must have the model's number of classes; other layers: {', '.join(list(heads)[:4])}",
                where=str(path),
                hint="replace_head = true initialises these layers anew",
            ) from None
        raise error
    return told


def load_or_count_classes(model: nn.Module, path: Path, choice: Choice | None = None) -> list[str]:
    """Load the weights in ``path`` into ``model``; one of another number of classes is told how many the file has.

    Returns:
        What was done to make them fit, in words.

    Raises:
        StillhouseError: missing, damaged, pickled, or another model's.
    """
    state, told = read_fitting(model, path, choice)
    try:
        load_state(model, state, str(path))
    except StillhouseError as error:
        heads = find_heads(model, state)
        counts = {(state[key].shape[0], own.shape[0]) for key, own in heads.items()}
        if len(counts) == 1 and _agrees(model, {**state, **heads}):
            theirs, ours = counts.pop()
            raise StillhouseError(
                f"is a model of {theirs} classes and not of {ours}: {', '.join(list(heads)[:4])}",
                where=str(path),
                hint=f"args = {{ num_classes = {theirs} }} (num_labels for transformers:) builds it so",
            ) from None
        raise error
    return told


def find_heads(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the model's own tensors that differ from ``state``'s in the first dimension alone, that of the outputs."""
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
