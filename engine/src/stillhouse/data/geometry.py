"""One random geometry for a sample's input and its target: torchvision's v2 transforms on typed tensors.

Masks and depths take the nearest pixel, so no class and no depth is made up between two, and what comes into the frame
from outside is ``ignore`` or a hole. Colour changes the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

__all__ = ["Geometry", "Picture"]

_MOVES = ("affine", "center_crop", "crop", "elastic", "horizontal_flip", "pad", "perspective", "resize",
          "resized_crop", "rotate", "vertical_flip")  # fmt: skip


class Picture(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision ships no types
    """An image as target: geometric transforms move it with the input, colour transforms leave it."""


def _register(move: str) -> None:
    kernel = getattr(F, f"{move}_image")

    def moved(picture: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = kernel(picture.as_subclass(Tensor), *args, **kwargs)
        return out.as_subclass(Picture)

    F.register_kernel(getattr(F, move), Picture)(moved)


for _move in _MOVES:
    _register(_move)


@attrs.frozen(eq=False)
class Geometry:
    """Applies transforms to an input (C, H, W) and its target together.

    Attributes:
        transforms: of torchvision.transforms.v2, or a composition of them.
        kind: the targets' kind.
    """

    transforms: Callable[..., Any]
    kind: str

    def __call__(self, x: Tensor, target: Any) -> tuple[Any, Any]:
        """Apply the same crop, flip, rotation, ... to the input and its target.

        Boxes are clipped to the image; those of which less than a pixel is left are dropped.
        """
        if self.kind in ("class", "vector", "none"):
            return self.transforms(x), target
        image = tv_tensors.Image(x)
        if self.kind == "boxes":
            return self._move_boxes(image, target)
        wrap = Picture if self.kind == "image" else tv_tensors.Mask
        out = self.transforms(image, target.as_subclass(wrap) if wrap is Picture else wrap(target))
        if not (isinstance(out, tuple) and len(out) == 2 and all(isinstance(t, Tensor) for t in out)):
            return out, target
        return out[0].as_subclass(Tensor), out[1].as_subclass(Tensor)

    def _move_boxes(self, image: Any, target: dict[str, Tensor]) -> tuple[Any, Any]:
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[-2:]))
        out = self.transforms(image, {"boxes": boxes, "labels": target["labels"]})
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], Tensor)):
            return out, target
        found = out[1]["boxes"]
        labels = out[1]["labels"].as_subclass(Tensor)
        boxes = F.clamp_bounding_boxes(found).as_subclass(Tensor)
        whole = torch.nonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(1)).flatten()
        return out[0].as_subclass(Tensor), {"boxes": boxes[whole], "labels": labels[whole]}
