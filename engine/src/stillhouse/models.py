"""Models: how a recipe names one and how it is built, and three small ones of our own (see :mod:`stillhouse.nets`)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import attrs
from torch import nn

from stillhouse.arguments import call, parameters_of
from stillhouse.data import DataInfo
from stillhouse.data.sampling import OwnRandomness
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.importing import import_object
from stillhouse.nets import convnet, mlp, vit
from stillhouse.strict import strict_fields

__all__ = ["ModelSpec", "build_model", "convnet", "mlp", "vit"]

_FORMS = "a model is torchvision:NAME, timm:NAME or package.module:callable"


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class ModelSpec:
    """Which model.

    Attributes:
        model: ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224`` or ``package.module:callable``, whose call
            returns an nn.Module (``stillhouse.models:convnet``, ``:vit``, ``:mlp`` are ours).
        args: its arguments. ``num_classes``, ``in_channels`` (``in_chans``), ``in_features``, ``image_size``
            (``img_size``, ``input_size``) and ``input_shape`` come from the data when the callable takes them and they
            are not given here.
        pretrained: with the published weights, and a new last layer where the number of classes differs. A callable
            of your own gets ``pretrained=True``.
    """

    model: str
    args: dict[str, Any] = attrs.field(factory=dict)
    pretrained: bool = False


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
            fetched, or something that is no nn.Module.
    """
    scheme, colon, name = spec.model.partition(":")
    if not (colon and name):
        raise StillhouseError(f"{spec.model!r} names no model", where=f"{where}.model", hint=_FORMS)
    if outputs is not None:
        info = attrs.evolve(info, classes=outputs)  # to a model, a class is one of its outputs
    with OwnRandomness() as randomness:
        randomness.seed(seed & 0xFFFFFFFFFFFFFFFF)
        if scheme == "torchvision":
            model = _torchvision(name, spec, info, where)
        elif scheme == "timm":
            model = _timm(name, spec, info, where)
        else:
            model = _own(spec, info, where, base)
    if not isinstance(model, nn.Module):
        raise StillhouseError(
            f"{spec.model!r} gives {type(model).__name__}", where=f"{where}.model", hint="it must return an nn.Module"
        )
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
    return call(function, {**_filled(spec.args, takes, info), **more}, f"{where}.args")


def _torchvision(name: str, spec: ModelSpec, info: DataInfo, where: str) -> Any:
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        raise StillhouseError(
            f"torchvision has no classification model {name!r}", where=f"{where}.model", hint=did_you_mean(name, known)
        )
    if info.input_shape[0] != 3 or len(info.input_shape) != 3:
        raise StillhouseError(
            f"torchvision's models read images of 3 channels, and inputs have shape {info.input_shape}",
            where=f"{where}.model",
            hint="set channels = 3 in [data]",
        )
    builder = models.get_model_builder(name)
    takes, _ = parameters_of(builder)
    inner, _ = parameters_of(get_type_hints(builder)["return"])  # resnet18(**kwargs) hands them to ResNet
    takes = {k: p for k, p in {**takes, **inner}.items() if k not in ("weights", "progress")}
    if not spec.pretrained:
        return call(builder, _filled(spec.args, takes, info), f"{where}.args", takes)
    args = {k: v for k, v in spec.args.items() if k != "num_classes"}  # published weights have their own head
    model = _fetched(lambda: call(builder, {**args, "weights": "DEFAULT"}, f"{where}.args", takes), spec, where)
    _replace_head(model, spec.args.get("num_classes", info.classes), spec, where)
    return model


def _replace_head(model: nn.Module, classes: int, spec: ModelSpec, where: str) -> None:
    """Put a new last linear layer in place of one that gives another number of classes."""
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise StillhouseError(
            f"{spec.model!r} has no linear layer at its end to fit to {classes} classes",
            where=f"{where}.pretrained",
            hint="wrap it in a function of your own",
        )
    name, last = linear[-1]
    if last.out_features != classes:
        model.set_submodule(name, nn.Linear(last.in_features, classes, bias=last.bias is not None))


def _timm(name: str, spec: ModelSpec, info: DataInfo, where: str) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise StillhouseError(
            f"{spec.model!r} needs timm: {error}", where=f"{where}.model", hint="pip install timm"
        ) from None
    known = timm.list_models()
    plain = name.partition(".")[0]  # `vit_tiny_patch16_224.augreg_in21k` names weights of a model
    if plain not in known and not name.startswith("hf-hub:"):
        raise StillhouseError(f"timm has no model {name!r}", where=f"{where}.model", hint=did_you_mean(plain, known))
    args = {"num_classes": info.classes, "in_chans": info.input_shape[0], **spec.args}

    def create() -> Any:
        return call(timm.create_model, {"model_name": name, "pretrained": spec.pretrained, **args}, f"{where}.args")

    return _fetched(create, spec, where) if spec.pretrained else create()


def _fetched(build: Callable[[], Any], spec: ModelSpec, where: str) -> Any:
    """``build()``, whose download may fail."""
    try:
        return build()
    except StillhouseError as error:
        if isinstance(error.__cause__, OSError):  # URLError, HTTPError, timeouts, a full disk
            raise StillhouseError(
                f"the published weights of {spec.model!r} cannot be fetched: {error.__cause__}",
                where=f"{where}.pretrained",
                hint='leave out `pretrained` and bring the weights: checkpoint = "FILE"',
            ) from error.__cause__
        raise


def _filled(args: Mapping[str, Any], takes: Iterable[str], info: DataInfo) -> dict[str, Any]:
    """``args`` and, of what the data decides, whatever the callable takes besides."""
    shape = info.input_shape
    size: Any = shape[-1]
    if len(shape) == 3 and shape[1] != shape[2]:
        size = tuple(shape[1:])
    known: dict[str, Any] = {
        "num_classes": info.classes,
        "in_channels": shape[0],
        "in_chans": shape[0],
        "in_features": math.prod(shape),
        "image_size": size,
        "img_size": size,
        "input_size": size,
        "input_shape": shape,
    }
    return {**{name: known[name] for name in takes if name in known}, **args}
