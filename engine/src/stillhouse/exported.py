"""What an export says of itself, and the student that can be built again from a .safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.formats import METADATA
from stillhouse.models import ModelSpec, build_model
from stillhouse.saved import SavedRun
from stillhouse.structure import unstructure
from stillhouse.teacher import load_weights
from stillhouse.training import GIVEN

__all__ = ["filled", "metadata_of", "rebuilt"]

_KNOWN = ("torchvision:", "timm:", "stillhouse.models:", "stillhouse.nets:")


def metadata_of(
    saved: SavedRun, module: nn.Module, *, preprocessing: bool, batch: int | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file says of the model in it, as plain data.

    Args:
        saved: its run.
        module: what leaves.
        preprocessing: it normalises its inputs itself.
        batch: the number of samples that it takes; None: any.
        about: what its task says of a program besides.
    """
    from stillhouse import __version__

    recipe, info = saved.recipe, saved.info
    spec = recipe.student
    outputs, names = saved.task.outputs(info), saved.task.class_names(info)
    return {
        "stillhouse": __version__,
        "torch": str(torch.__version__),
        "run": recipe.run.name,
        "weights": saved.weights,
        "step": saved.step,
        # Whether the recipe's model is what leaves, or a plugin has made another one of it.
        "model": spec.model if _is_of(module, spec, info, saved, outputs) else None,
        "args": unstructure(spec.args),
        "outputs": outputs,
        "task": {"name": recipe.task.name, "args": unstructure(saved.task)},
        "output": saved.task.output_text(),
        "classes": len(names),
        "class_names": list(names),
        "input_shape": list(info.input_shape),
        "batch": batch or "any",
        "mean": list(info.mean),
        "std": list(info.std),
        "input": "0 to 1" if preprocessing or not info.mean else "(x - mean) / std of an x of 0 to 1, by channel",
        **about,
    }


def _is_of(module: nn.Module, spec: ModelSpec, info: DataInfo, saved: SavedRun, outputs: int) -> bool:
    if spec.model.startswith(GIVEN):
        return False
    if spec.model.startswith("timm:hf-hub:"):
        return False  # its definition lies on somebody's host
    try:
        fresh = _build(spec.model, spec.args, info, outputs, saved.recipe.base)
    except StillhouseError:
        return False
    shapes = [{k: getattr(v, "shape", None) for k, v in m.state_dict().items()} for m in (fresh, module)]
    return type(fresh) is type(module) and shapes[0] == shapes[1]


def _build(model: str, args: dict[str, Any], info: DataInfo, outputs: int, base: Path | None) -> nn.Module:
    return build_model(ModelSpec(model=model, args=args), info, seed=0, where="model", base=base, outputs=outputs)


def rebuilt(path: Path, own_code: bool = False, base: Path | None = None) -> nn.Module:
    """The student in a .safetensors export, in eval mode, on the CPU.

    Args:
        path: the file.
        own_code: build models that are named by ``package.module:callable`` too: only of a file that is one's own,
            because a name leads to code that is run.
        base: a folder to find them from.

    Raises:
        StillhouseError: no such file, no export, or a model that has to be handed over.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get(METADATA)
    except FileNotFoundError:
        raise StillhouseError("there is no such file", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise StillhouseError(f"is damaged or no safetensors file: {error}", where=str(path)) from None
    handed = "build the model and hand it over: load_student(FILE, student=module)"
    if told is None:
        raise StillhouseError("says nothing of its model: it is no export of a run", where=str(path), hint=handed)
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
        raise StillhouseError("its model is none that a recipe names", where=str(path), hint=handed)
    if not own_code and not model.startswith(_KNOWN):
        raise StillhouseError(
            f"its model is {model!r}: code that a file names is not run", where=str(path), hint=handed
        )
    student = _build(model, args, info, outputs, base)
    load_weights(student, path)
    return student.eval()


def filled(path: Path, student: nn.Module) -> nn.Module:
    """``student`` with the weights of a .safetensors file."""
    load_weights(student, path)
    return student.eval()
