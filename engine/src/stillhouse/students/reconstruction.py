"""Reconstruction of the student in a .safetensors export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.entries import MODELS, find_scheme
from stillhouse.errors import StillhouseError
from stillhouse.models.builder import build_model
from stillhouse.models.weights import load_weights
from stillhouse.teachers.origins import METADATA

__all__ = ["fill_student", "rebuild_student"]


_OURS = ("stillhouse.models:", "stillhouse.models.nets:")
_FROM_ANYWHERE = ("transformers",)
"""Families whose models may bring code or a config from elsewhere."""


def _is_safe(model: str) -> bool:
    """Whether building ``model`` runs the engine's own code and its requirements' alone."""
    named = find_scheme(MODELS, model)
    if named is None:
        return model.startswith(_OURS)
    return named[0].distribution == "stillhouse" and named[0].use not in _FROM_ANYWHERE


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
        model, args, outputs = about["model"], about["args"], int(about["outputs"])
        info = DataInfo(
            classes=int(about["classes"]),
            class_names=tuple(about["class_names"]),
            input_shape=tuple(about["input_shape"]),
            sizes={},
            fingerprint="",
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"its metadata are damaged: {error!r}", where=str(path), hint=handed) from None
    if not isinstance(model, str):
        raise StillhouseError("a recipe cannot build its model", where=str(path), hint=handed)
    if not own_code and not _is_safe(model):
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
