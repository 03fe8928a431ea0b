"""Metadata of an export: the run, the model and the form of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stillhouse.config.home import shorten_home
from stillhouse.config.model import ModelSpec
from stillhouse.config.structure import unstructure
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.students.reconstruction import build_exported
from stillhouse.students.saved_run import SavedRun

__all__ = ["describe_export"]


def describe_export(
    saved: SavedRun, module: nn.Module, *, preprocessing: bool, batch: int | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the model in a file, as plain data.

    Args:
        saved: its run.
        module: the exported module.
        preprocessing: whether it normalises its inputs itself.
        batch: the number of samples that it takes; None: any.
        about: further keys of its task's program.
    """
    from stillhouse.version import __version__

    recipe, info = saved.recipe, saved.info
    spec = recipe.student
    outputs, names = saved.task.outputs(info), saved.task.class_names(info)
    return {
        "stillhouse": __version__,
        "torch": str(torch.__version__),
        "run": recipe.run.name,
        "weights": saved.weights,
        "step": saved.step,
        # Whether the recipe's model is exported, or one that a plugin has made of it.
        "model": spec.model if _is_built_by(module, spec, info, saved, outputs) else None,
        "args": shorten_home(unstructure(spec.args)),
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
        "preprocessing": describe_preprocessing(saved, in_program=preprocessing),
        **about,
    }


def describe_preprocessing(saved: SavedRun, *, in_program: bool) -> dict[str, Any] | None:
    """Everything between an image's file and the program's input, in the order in which it is done; None for other inputs.

    Args:
        saved: the run.
        in_program: whether mean and standard deviation are the program's own.
    """
    info, data = saved.info, saved.recipe.data
    shape = info.eval_shape or info.input_shape
    if len(shape) != 3:
        return None
    size, crop = data.height_and_width, data.crop_height_and_width
    return {
        "orientation": "as EXIF says",
        "background": data.background,  # of transparent pixels, a level of grey
        "channels": {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]}, as stored"),
        # As torchvision has it; other libraries round to the nearest whole number, and a borderline image is another class.
        "grey": {"of_rgb": [0.2989, 0.587, 0.114], "rounded": "down"} if shape[0] == 1 else None,
        "resize": None
        if size is None
        else {"size": list(size), "interpolation": "bilinear", "antialias": True, "keep_aspect": False},
        "center_crop": None if crop is None else list(crop),
        "value_range": [0.0, 1.0],
        "mean": [] if in_program else list(info.mean),
        "std": [] if in_program else list(info.std),
        "layout": "NCHW",
        "dtype": "float32",
    }


def _is_built_by(module: nn.Module, spec: ModelSpec, info: DataInfo, saved: SavedRun, outputs: int) -> bool:
    if spec.given:
        return False
    if spec.model.startswith("timm:hf-hub:"):
        return False  # its definition lies on somebody's host
    try:
        fresh = build_exported(spec.model, spec.args, info, outputs, saved.recipe.base)
    except StillhouseError:
        return False
    shapes = [{k: getattr(v, "shape", None) for k, v in m.state_dict().items()} for m in (fresh, module)]
    return type(fresh) is type(module) and shapes[0] == shapes[1]
