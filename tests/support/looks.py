"""What torchvision makes of one image with the parameters that a form by batch has drawn for it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.colour import Jitter
from stillhouse.data.kernels import Erasing, Kernel
from stillhouse.data.random_numbers import Uniform
from stillhouse.data.windows import Mirror, Placement

__all__ = ["look_by_torchvision", "place_by_torchvision"]


def look_by_torchvision(
    transform: Any, form: Kernel, image: Tensor, row: int, drawn: dict[str, NDArray[Any]]
) -> Tensor:
    """``transform`` of an image (C, H, W) by the parameters of ``row``."""
    params: dict[str, Any] = {key: value[..., row].tolist() for key, value in drawn.items()}
    if not params.pop("applied", True):
        return image
    if isinstance(form, Jitter):
        params = {f"{name}_factor": None for name in ("brightness", "contrast", "saturation", "hue")} | params
    if isinstance(form, Erasing):
        if params["h"] == 0:
            return image
        params["v"] = torch.tensor(form.value)[:, None, None]
    if "sigma" in params:
        params["sigma"] = [params["sigma"]] * 2
    out: Tensor = transform.transform(image, {**transform.make_params([image]), **params})
    return out


def place_by_torchvision(transform: Any, form: Placement, image: Tensor, u: Uniform) -> Tensor:
    """A crop or flip of an image (C, H, W), by the random numbers ``u`` of its sample."""
    params = transform.make_params([image])
    if isinstance(form, Mirror):
        mirrored: Tensor = transform.transform(image, params) if u[0] < form.p else image
        return mirrored
    if form.numbers:
        left, above, right, below = params["padding"]
        params["top"] = int(u[0] * (image.shape[1] + above + below - params["height"] + 1))
        params["left"] = int(u[1] * (image.shape[2] + left + right - params["width"] + 1))
        params["needs_crop"] = True
    moved: Tensor = transform.transform(image, params)
    return moved
