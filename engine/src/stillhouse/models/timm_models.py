"""timm's models, by name, for images of the data's size."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from stillhouse.config.model import ModelSpec
from stillhouse.config.signatures import call
from stillhouse.config.trust import refuse_stored
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError, StillhouseWarning, did_you_mean
from stillhouse.models.arguments import fetch, fill_arguments
from stillhouse.models.family import ModelFamily, ModelRequest, Published

__all__ = ["TIMM", "build_timm", "describe_timm"]

_ELSEWHERE = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments by which timm reads files of somebody's choice; its older versions unpickle them."""

_SIZES = ("img_size", "dynamic_img_size", "strict_img_size")
"""Arguments that set the size of a model's images: where one is given, none is chosen."""


def build_timm(name: str, request: ModelRequest) -> Any:
    """Build timm's model ``name``. A model that takes images of one size gets the data's as ``img_size``.

    Args:
        name: ``vit_tiny_patch16_224``, perhaps with the name of its weights, or ``hf-hub:...``.
        request: what it is built for.

    Raises:
        StillhouseError: timm is missing, no such model, an argument it does not take, weights that cannot be fetched.
    """
    spec, info, where = request.spec, request.info, request.where
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise StillhouseError(
            f"{spec.model!r} needs timm: {error}", where=f"{where}.model", hint="pip install stillhouse[timm]"
        ) from None
    _refuse_elsewhere(name, spec, where)
    known = timm.list_models()
    plain = name.partition(".")[0]  # `vit_tiny_patch16_224.augreg_in21k` names weights of a model
    if plain not in known and not name.startswith("hf-hub:"):
        raise StillhouseError(f"timm has no model {name!r}", where=f"{where}.model", hint=did_you_mean(plain, known))
    args = {"num_classes": info.classes, "in_chans": info.input_shape[0], **spec.args}

    def create(**more: Any) -> Any:
        given = {"model_name": name, "pretrained": spec.pretrained, **args, **more}
        build = partial(call, timm.create_model, given, f"{where}.args")
        return fetch(build, spec, where) if spec.pretrained else build()

    if name.startswith("hf-hub:"):  # what its size is lies there, and comes with it
        model = create()
        _warn_of_size(model, spec, info, where)
        return model
    size = (
        {} if plain.startswith("crossvit") else _choose_size(_read_default(timm, name), spec, info)
    )  # it resizes itself
    try:
        return create(**size)
    except StillhouseError as error:
        if size and error.faults[0].where == f"{where}.args.img_size":  # it has no such argument
            return create()
        raise


def _refuse_elsewhere(name: str, spec: ModelSpec, where: str) -> None:
    """Refuse what timm would read from elsewhere than its own register, where a stored run asks for it."""
    if "model_name" in spec.args:
        raise StillhouseError("is what follows timm: in the model's name", where=f"{where}.args.model_name")
    if name.startswith("hf-hub:"):
        refuse_stored(f"{spec.model!r} lies on somebody's host", f"{where}.model")
    for key in _ELSEWHERE:
        if key in spec.args:
            refuse_stored(f"{key!r} names a file of weights, which may be code", f"{where}.args.{key}")


def describe_timm(name: str, _request: ModelRequest) -> Published | None:
    """What timm's default configuration says of the weights ``name``; of those on the hub, what lies there."""
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:  # building it says so
        return None
    if name.startswith("hf-hub:"):
        default: Mapping[str, Any] | None = _read_hub_config(name.removeprefix("hf-hub:"))
    else:
        default = _read_default(timm, name)
    if not default or not default.get("mean"):
        return None
    channels, *size = default["input_size"]
    return Published(
        source="timm's configuration",
        mean=tuple(map(float, default["mean"])),
        std=tuple(map(float, default["std"])),
        channels=int(channels),
        size=(int(size[0]), int(size[1])),
        outputs=default.get("num_classes"),
        class_names=tuple(map(str, default.get("label_names") or ())),
    )


TIMM = ModelFamily(build_timm, describe_timm)


def _read_default(timm: Any, name: str) -> Mapping[str, Any] | None:
    """Read timm's default config of a model: builders take ``img_size`` by ``**kwargs``, so signatures do not show it."""
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such weights: building it says so
        return None
    return None if found is None else found.to_dict()


def _read_hub_config(name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = importlib.import_module("timm.models").load_model_config_from_hf(name)[0]
    except Exception:  # noqa: BLE001 - no connection, no such model: building it says so
        return None
    return found


def _choose_size(default: Mapping[str, Any] | None, spec: ModelSpec, info: DataInfo) -> dict[str, Any]:
    """Choose ``img_size`` for a model that takes images of one size, where this is not the data's and none is given."""
    if not default or not default.get("fixed_input_size") or any(key in spec.args for key in _SIZES):
        return {}
    if len(info.input_shape) != 3 or tuple(default["input_size"][1:]) == info.input_shape[1:]:
        return {}
    return fill_arguments({}, ["img_size"], info)


def _warn_of_size(model: Any, spec: ModelSpec, info: DataInfo, where: str) -> None:
    default = getattr(model, "pretrained_cfg", None) or {}
    if _choose_size(default, spec, info):
        own = "x".join(map(str, default["input_size"][1:]))
        height, width = info.input_shape[1:]
        warnings.warn(
            f"{where}.args.img_size: {spec.model!r} takes images of {own}, and the data's are {height}x{width}: "
            f"args = {{ img_size = [{height}, {width}] }} if it cannot take them",
            StillhouseWarning,
            stacklevel=2,
        )
