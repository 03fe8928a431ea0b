"""torchvision's models: classification, segmentation and detection, found through its registry."""

from __future__ import annotations

from typing import Any, get_type_hints

from stillhouse.config.signatures import call, read_parameters
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.models.arguments import fetch, fill_arguments
from stillhouse.models.family import ModelFamily, ModelRequest, Published
from stillhouse.models.heads import put_new_heads

__all__ = ["TORCHVISION", "build_torchvision", "describe_torchvision"]


def build_torchvision(name: str, request: ModelRequest) -> Any:
    """Build torchvision's model ``name``.

    Weights are downloaded with ``pretrained = true`` only. torchvision's builders of segmentation and detection models
    would also fetch a backbone's when asked for none; ``args = { weights_backbone = "DEFAULT" }`` asks for them.

    Raises:
        StillhouseError: no such model, inputs that are no images of 3 channels, a wrong argument, a failed download.
    """
    from torchvision import models

    spec, info, where = request.spec, request.info, request.where

    known = [n for module in (models, models.segmentation, models.detection) for n in models.list_models(module=module)]
    if name not in known:
        raise StillhouseError(
            f"torchvision has no model {name!r} for images", where=f"{where}.model", hint=did_you_mean(name, known)
        )
    if info.input_shape[0] != 3 or len(info.input_shape) != 3:
        raise StillhouseError(
            f"torchvision's models need images of 3 channels, got inputs of shape {info.input_shape}",
            where=f"{where}.model",
            hint="set channels = 3 in [data]",
        )
    builder = models.get_model_builder(name)
    own, _ = read_parameters(builder)
    inner, _ = read_parameters(get_type_hints(builder)["return"])  # resnet18(**kwargs) hands them to ResNet
    takes = {k: p for k, p in {**own, **inner, "num_classes": None}.items() if k not in ("weights", "progress")}
    args = dict(spec.args)
    if "weights_backbone" in own:
        args.setdefault("weights_backbone", None)

    def build(**more: Any) -> Any:
        return call(builder, {**args, **more}, f"{where}.args", takes)

    classes = spec.args.get("num_classes", info.classes)
    if spec.pretrained:
        # Published weights bring their own number of classes; the fresh model is there for its heads alone.
        headless = {k: v for k, v in args.items() if k != "num_classes"}
        published = fetch(
            lambda: call(builder, {**headless, "weights": "DEFAULT"}, f"{where}.args", takes), spec, where
        )
        fresh = build(**{"num_classes": classes, **({"weights_backbone": None} if "weights_backbone" in own else {})})
        put_new_heads(published, fresh)
        return published
    args = fill_arguments(args, takes, info)
    if isinstance(args.get("input_size"), int):  # maxvit takes both sides
        args["input_size"] = (args["input_size"], args["input_size"])
    return fetch(build, spec, where) if args.get("weights_backbone") else build()


def describe_torchvision(name: str, _request: ModelRequest) -> Published | None:
    """What torchvision says of the default weights of its model ``name``."""
    from torchvision import models

    try:
        weights: Any = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):  # building it says so
        return None
    transforms, names = weights.transforms(), tuple(weights.meta.get("categories") or ())
    crop = getattr(transforms, "crop_size", None)
    return Published(
        source="torchvision's weights",
        # Detectors normalise by themselves, and have no such transform.
        mean=tuple(getattr(transforms, "mean", ())),
        std=tuple(getattr(transforms, "std", ())),
        channels=3,
        size=None if not crop else (crop[0], crop[-1]),
        outputs=len(names) or None,
        class_names=names,
    )


TORCHVISION = ModelFamily(build_torchvision, describe_torchvision)
