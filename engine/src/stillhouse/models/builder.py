"""From a ModelSpec to a module: by its scheme, with weights from a seed, the source or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from torch import nn

from stillhouse.config.model import ModelSpec
from stillhouse.config.references import import_object
from stillhouse.config.signatures import call, parameters_of
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.models.arguments import filled
from stillhouse.models.heads import load_but_heads
from stillhouse.models.timm_models import build_timm
from stillhouse.models.torchvision_models import build_torchvision
from stillhouse.models.transformers_models import build_transformers
from stillhouse.seeds import OwnRandomness

__all__ = ["build_model"]

_FORMS = "a model is torchvision:NAME, timm:NAME, transformers:CLASS or package.module:callable"


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
            fetched or are another model's, or something that is no nn.Module.
    """
    scheme, colon, name = spec.model.partition(":")
    if not (colon and name):
        raise StillhouseError(f"{spec.model!r} names no model", where=f"{where}.model", hint=_FORMS)
    if outputs is not None:
        info = attrs.evolve(info, classes=outputs)  # to a model, a class is one of its outputs
    with OwnRandomness() as randomness:
        randomness.seed(seed & 0xFFFFFFFFFFFFFFFF)
        if scheme == "torchvision":
            model = build_torchvision(name, spec, info, where)
        elif scheme == "timm":
            model = build_timm(name, spec, info, where)
        elif scheme == "transformers":
            model = build_transformers(name, spec, info, where, base)
        else:
            model = _own(spec, info, where, base)
    if not isinstance(model, nn.Module):
        raise StillhouseError(
            f"{spec.model!r} gives {type(model).__name__}", where=f"{where}.model", hint="it must return an nn.Module"
        )
    if spec.checkpoint is not None:
        try:
            load_but_heads(model, (base or Path()) / Path(spec.checkpoint).expanduser(), spec.replace_head)
        except StillhouseError as error:
            raise error.within(f"{where}.checkpoint") from None
    return model


def _own(spec: ModelSpec, info: DataInfo, where: str, base: Path | None) -> Any:
    function = import_object(spec.model, f"{where}.model", base)
    if isinstance(function, nn.Module):
        raise StillhouseError(
            f"{spec.model!r} is a module already, which every run would share",
            where=f"{where}.model",
            hint="name a function or class that makes one",
        )
    if not callable(function):
        raise StillhouseError(f"{spec.model!r} is {type(function).__name__}, and no callable", where=f"{where}.model")
    takes, open_ended = parameters_of(function)
    if spec.pretrained and not open_ended and "pretrained" not in takes:
        raise StillhouseError(
            f"{spec.model!r} takes no `pretrained`", where=f"{where}.pretrained", hint='bring it: checkpoint = "FILE"'
        )
    more = {"pretrained": True} if spec.pretrained else {}
    return call(function, {**filled(spec.args, takes, info), **more}, f"{where}.args")
