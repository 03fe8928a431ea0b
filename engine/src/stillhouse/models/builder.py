"""The model builder: a ModelSpec to a module, by its name, with weights from a seed, the source or a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from stillhouse.config.home import find_path
from stillhouse.config.model import ModelSpec
from stillhouse.config.references import import_object
from stillhouse.config.signatures import call, read_parameters
from stillhouse.contract.batch import DataInfo
from stillhouse.entries import MODELS, Installed, error_text, find_scheme, load_entry, nearest
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.models.arguments import fill_arguments
from stillhouse.models.family import ModelFamily, ModelRequest, Published
from stillhouse.models.heads import load_but_heads
from stillhouse.models.lazy import materialise
from stillhouse.models.state_dicts import Choice
from stillhouse.seeds import OwnRandomness

__all__ = ["build_model", "describe_published", "load_model"]


_FORMS = "a model is FAMILY:NAME, such as torchvision:resnet18, or package.module:callable"


def build_model(
    spec: ModelSpec, info: DataInfo, *, seed: int, where: str, base: Path | None = None, outputs: int | None = None
) -> nn.Module:
    """Build the model of ``spec`` for the data of ``info``, on the CPU, from ``seed`` alone.

    The global random generators are as before afterwards.

    Args:
        spec: which model.
        info: the data's classes and the shape of one input.
        seed: decides the initial weights.
        where: the recipe's table, ``student`` or ``teacher``, for faults.
        base: the recipe's folder.
        outputs: how many numbers or channels the task wants of the model; None: the data's classes.

    Raises:
        StillhouseError: no such model (with the nearest names), an argument it does not take, weights that cannot be
            fetched or are another model's, lazy layers that take no such input, or something that is no nn.Module.
    """
    if outputs is not None:
        info = attrs.evolve(info, classes=outputs)  # to a model, a class is one of its outputs
    request = ModelRequest(spec, info, where, base)
    with OwnRandomness() as randomness:
        randomness.seed(seed & 0xFFFFFFFFFFFFFFFF)
        model = _call_named(request)
    if not isinstance(model, nn.Module):
        raise StillhouseError(
            f"{spec.model!r} must return an nn.Module, got {type(model).__name__}", where=f"{where}.model"
        )
    materialise(model, lambda: torch.zeros(2, *info.input_shape), seed, where)
    if spec.checkpoint is not None:
        try:
            path = find_path(spec.checkpoint, base)
            choice = Choice(averaged=spec.averaged, prefix=spec.prefix, weights=spec.asked_weights)
            told = load_but_heads(model, path, spec.replace_head, choice)
        except StillhouseError as error:
            raise error.within(f"{where}.checkpoint") from None
        if told:
            warnings.warn(f"{where}.checkpoint: {'; '.join(told)} ({path.name})", StillhouseWarning, stacklevel=2)
    return model


def describe_published(request: ModelRequest) -> Published | None:
    """What the source of the model says of its published weights; None where it says nothing.

    Raises:
        StillhouseError: the family cannot be imported.
    """
    named = find_scheme(MODELS, request.spec.model, f"{request.where}.model")
    if named is None:
        return None
    family = load_model(named[0], f"{request.where}.model")
    if not isinstance(family, ModelFamily) or family.describe is None or bool(named[1]) == family.is_one_model:
        return None
    return family.describe(named[1], request)


def _call_named(request: ModelRequest) -> Any:
    """Call the family or callable of the model's name."""
    text, where = request.spec.model, f"{request.where}.model"
    named = find_scheme(MODELS, text, where)
    if named is None and ":" not in text:
        near = nearest(MODELS, text)
        raise StillhouseError(
            f"no installed model is called {text!r}", where=where, hint=f"{near} {_FORMS}" if near else _FORMS
        )
    if named is None:
        return _call(import_object(text, where, request.base, MODELS), request)
    found, name = named
    model = load_model(found, where)
    if isinstance(model, ModelFamily) and not (name and model.is_one_model):
        if not name and not model.is_one_model:
            raise StillhouseError(f"must be {text}:NAME, since {text!r} is a family of models", where=where)
        return _build(model, name, request, found)
    if name:
        raise StillhouseError(f"{found.use!r} is one model, got the name {name!r}", where=where, hint=found.use)
    return _call(model, request)


def _build(family: ModelFamily, name: str, request: ModelRequest, found: Installed) -> Any:
    try:
        return family.build(name, request)
    except StillhouseError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{request.spec.model!r} cannot be built: {error_text(error)}"
        raise StillhouseError(what, where=f"{request.where}.model", hint=f"from {found.origin}") from error


def load_model(found: Installed, where: str = "") -> ModelFamily | Callable[..., Any]:
    """Import the family of models, or the callable that makes one, that a distribution brings.

    Raises:
        StillhouseError: it is broken.
    """
    model: ModelFamily | Callable[..., Any] = load_entry(found, MODELS, where)
    if isinstance(model, nn.Module) or not (isinstance(model, ModelFamily) or callable(model)):
        what = f"{found.target!r} must be a ModelFamily or a callable that makes a model, got {type(model).__name__}"
        raise StillhouseError(what, where=where, hint=f"from {found.origin}")
    return model


def _call(function: Any, request: ModelRequest) -> Any:
    spec, where = request.spec, request.where
    if isinstance(function, nn.Module):
        raise StillhouseError(
            f"{spec.model!r} must be a function or class that makes a module, got a module, which runs would share",
            where=f"{where}.model",
        )
    if not callable(function):
        raise StillhouseError(f"{spec.model!r} must be callable, got {type(function).__name__}", where=f"{where}.model")
    takes, open_ended = read_parameters(function)
    if spec.pretrained and not open_ended and "pretrained" not in takes:
        raise StillhouseError(
            f"{spec.model!r} has no argument `pretrained`", where=f"{where}.pretrained", hint='checkpoint = "FILE"'
        )
    more = {"pretrained": True} if spec.pretrained else {}
    return call(function, {**fill_arguments(spec.args, takes, request.info), **more}, f"{where}.args")
