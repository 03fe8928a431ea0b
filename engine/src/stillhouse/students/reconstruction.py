"""Reconstruction of the student in a .safetensors export."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from torch import nn

from stillhouse.config.home import expand_home
from stillhouse.config.model import ModelSpec
from stillhouse.config.structure import structure
from stillhouse.contract.batch import DataInfo
from stillhouse.entries import MODELS, find_scheme
from stillhouse.errors import StillhouseError
from stillhouse.files import open_file
from stillhouse.models.builder import build_model
from stillhouse.models.weights import load_weights
from stillhouse.teachers.origins import METADATA

__all__ = ["fill_student", "rebuild_student"]


_NETS = ("convnet", "dense_vit", "detector", "mlp", "unet", "vit")
_LIBRARIES = ("timm", "torchvision")
"""Ours, and the libraries that build a model by a name in their own register, from their own code. The families of others
may bring code, or a config, from elsewhere."""


def _is_known(model: str) -> bool:
    """Whether ``model`` is exactly one that is built without the code of others: it is compared with a list, and nothing is imported."""
    if model in {f"{module}:{net}" for module in ("stillhouse.models", "stillhouse.models.nets") for net in _NETS}:
        return True
    named = find_scheme(MODELS, model)
    if named is None or canonicalize_name(named[0].distribution) != "stillhouse":
        return False
    found, rest = named
    return (found.use in _NETS and not rest) or (found.use in _LIBRARIES and bool(re.fullmatch(r"[\w.]+", rest)))


def build_exported(model: str, args: dict[str, Any], info: DataInfo, outputs: int, base: Path | None) -> nn.Module:
    return build_model(ModelSpec(model=model, args=args), info, seed=0, where="model", base=base, outputs=outputs)


def rebuild_student(path: Path, own_code: bool = False, base: Path | None = None) -> nn.Module:
    """Rebuild the student in a .safetensors export, in eval mode, on the CPU.

    Args:
        path: the file.
        own_code: also build models named by ``package.module:callable``; only for a trusted file, since the name leads
            to code that is run.
        base: the folder that their modules are found from.

    Raises:
        StillhouseError: no such file, not an export, or a model that must be built by the caller.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_file(Path(path)).close()  # a pipe would be waited for
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get(METADATA)
    except FileNotFoundError:
        raise StillhouseError("file not found", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise StillhouseError(f"is damaged or not a safetensors file: {error}", where=str(path)) from None
    handed = "build the model yourself: load_student(FILE, student=module)"
    if told is None:
        raise StillhouseError(
            "is not an export of a run: it has no metadata on its model", where=str(path), hint=handed
        )
    try:
        about = json.loads(told)
        model, outputs = about["model"], int(about["outputs"])
        args: dict[str, Any] = structure(expand_home(about["args"]), dict[str, Any], "args")
        known = {key: about[key] for key in ("classes", "class_names", "input_shape")}
        info: DataInfo = structure({**known, "sizes": {}, "fingerprint": ""}, DataInfo)
    except (ValueError, KeyError, TypeError, RecursionError, StillhouseError) as error:
        raise StillhouseError(f"its metadata are damaged: {error!r}", where=str(path), hint=handed) from None
    if not isinstance(model, str):
        raise StillhouseError("a recipe cannot build its model", where=str(path), hint=handed)
    if not own_code and not _is_known(model):
        raise StillhouseError(
            f"its model must be one of torchvision, timm or Stillhouse, got {model!r}: other code is not run",
            where=str(path),
            hint=handed,
        )
    student = build_exported(model, args, info, outputs, base)
    load_weights(student, path)
    return student.eval()


def fill_student(path: Path, student: nn.Module) -> nn.Module:
    """Fill ``student`` with the weights of a .safetensors file."""
    load_weights(student, path)
    return student.eval()
