"""What samples are labelled with: masks, depths, paired images, vectors, boxes; from files or data sets to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stillhouse.config.fields import strict_fields
from stillhouse.data.images import to_tensor
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.layout import shape_text

__all__ = ["Kind", "TargetSpec", "finished", "guess_kind", "packed", "resized", "spatial"]

Kind = Literal["class", "mask", "depth", "image", "vector", "boxes", "none"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class TargetSpec:
    """How targets are read; keys of ``[data] args``.

    Attributes:
        target: their kind: ``class``, ``mask``, ``depth``, ``image``, ``vector``, ``boxes`` or ``none``.
        classes: of classes, masks and boxes: the names by index, or how many there are.
        ignore: of masks: a value beside the classes that marks pixels without a label.
        scale: of depths: metres in one unit; None: 0.001 for whole numbers (millimetres), 1 for floats.
        holes: of depths: values, as stored, that mean that nothing was measured; they become 0. So does what is not
            finite.
    """

    target: Kind
    classes: int | tuple[str, ...] | None = None
    ignore: int | None = None
    scale: float | None = None
    holes: tuple[float, ...] = (0.0,)

    def __attrs_post_init__(self) -> None:
        faults = []
        if self.target in ("mask", "boxes") and not self.classes:
            what = f"{self.target} targets need their classes" if self.classes is None else "there are no classes"
            faults.append(Fault("classes", what, 'classes = ["sky", "road"], or their number'))
        elif isinstance(self.classes, int) and self.classes < 0:
            faults.append(Fault("classes", f"{self.classes} is below 1", "at least 1"))
        of = {"classes": ("mask", "boxes", "class"), "ignore": ("mask",), "scale": ("depth",)}
        faults += [
            Fault(key, f"{self.target} targets have no `{key}`", f"it is for {' and '.join(kinds)}")
            for key, kinds in of.items()
            if getattr(self, key) is not None and self.target not in kinds
        ]
        if self.scale is not None and self.scale <= 0:
            faults.append(Fault("scale", f"{self.scale} is not above 0", "metres in one unit"))
        names = self.class_names
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            faults.append(Fault("classes", f"named twice: {', '.join(twice)}", "each class once"))
        if self.ignore is not None and self.ignore in range(len(self.class_names)):
            faults.append(Fault("ignore", f"{self.ignore} is a class", "a value beside the classes, such as 255"))
        raise_faults(faults)

    @property
    def class_names(self) -> tuple[str, ...]:
        """By index; numbers where only their count is known."""
        given = self.classes or ()
        return tuple(str(n) for n in range(given)) if isinstance(given, int) else given

    def read(self, value: Any) -> Any:
        """One target as it is kept.

        Args:
            value: a PIL image, a numpy array, a tensor, a list of numbers, or a dict of boxes and labels.

        Returns:
            A mask (H, W), uint8 or int32; depths (1, H, W) in metres, float32; an image (C, H, W), uint8 or float32; a
            vector (D,), float32; ``{boxes: (N, 4) float32, labels: (N,) int64}``; or None.

        Raises:
            StillhouseError: it is not of that kind, or holds values that it must not.
        """
        reader = {"mask": self._mask, "depth": self._depth, "image": to_tensor, "vector": _vector, "boxes": self._boxes}
        return None if self.target == "none" else reader[self.target](value)

    def _mask(self, value: Any) -> Tensor:
        array = _plane(value, "mask", "index images (mode L or P), one class number a pixel")
        if array.dtype.kind not in "iub":
            raise StillhouseError(
                f"the mask holds {array.dtype}", hint="whole numbers: the index of each pixel's class"
            )
        indices = torch.from_numpy(array.astype(np.int32))
        wrong = (indices < 0) | (indices >= len(self.class_names))
        if self.ignore is not None:
            wrong &= indices != self.ignore
        if bool(wrong.any()):
            values = np.unique(indices[wrong].numpy()).tolist()
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            left_out = "" if self.ignore is None else f" and {self.ignore} is ignored"
            raise StillhouseError(
                f"{int(wrong.sum())} pixels have values outside the classes: {shown}",
                hint=f"classes are 0 to {len(self.class_names) - 1}{left_out}"
                + ("; `ignore` names a value to leave out" if self.ignore is None else ""),
            )
        small = len(self.class_names) <= 256 and (self.ignore is None or 0 <= self.ignore <= 255)
        return indices.to(torch.uint8) if small else indices

    def _depth(self, value: Any) -> Tensor:
        array = _plane(value, "depth", "one channel: 16-bit PNG or floats (H, W)")
        scale = self.scale if self.scale is not None else (1.0 if array.dtype.kind == "f" else 0.001)
        hole = ~np.isfinite(array) | np.isin(array, self.holes)
        metres = np.where(hole, 0.0, array.astype(np.float64) * scale).astype(np.float32)
        if metres.min(initial=0.0) < 0:
            raise StillhouseError(
                f"the least depth is {metres.min():g} m", hint="depths are 0 (nothing measured) or more"
            )
        return torch.from_numpy(metres)[None]

    def _boxes(self, value: Any) -> dict[str, Tensor]:
        if not (isinstance(value, Mapping) and "boxes" in value and "labels" in value):
            what = f"a dict of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
            raise StillhouseError(
                f"the target is {what}", hint="give { boxes: (N, 4) x1, y1, x2, y2 in pixels, labels: (N,) }"
            )
        boxes = torch.as_tensor(value["boxes"], dtype=torch.float32).reshape(-1, 4).as_subclass(Tensor).clone()
        labels = torch.as_tensor(value["labels"], dtype=torch.int64).reshape(-1).clone()
        if len(boxes) != len(labels):
            raise StillhouseError(
                f"there are {len(boxes)} boxes and {len(labels)} labels", hint="one label for each box"
            )
        if not bool(torch.isfinite(boxes).all() & (boxes[:, 2:] > boxes[:, :2]).all()):
            raise StillhouseError(
                "a box has no area, or numbers that are not finite", hint="x1 < x2 and y1 < y2, in pixels"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
            raise StillhouseError(
                f"boxes have labels {sorted(set(labels.tolist()))}", hint=f"labels are 0 to {len(self.class_names) - 1}"
            )
        return {"boxes": boxes, "labels": labels}


def _array(value: Any, kind: str) -> NDArray[Any]:
    if isinstance(value, Image.Image):
        return np.asarray(value)
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).numpy()
    if isinstance(value, np.ndarray):
        return value
    raise StillhouseError(f"the {kind} is {type(value).__name__}", hint="give a PIL image, a numpy array or a tensor")


def _plane(value: Any, kind: str, hint: str) -> NDArray[Any]:
    """A single channel (H, W); bool becomes uint8."""
    if isinstance(value, Image.Image) and len(value.getbands()) > 1:
        raise StillhouseError(f"the {kind} has the mode {value.mode}", hint=hint)
    array = _array(value, kind)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise StillhouseError(f"the {kind} has shape {array.shape}", hint=hint)
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _vector(value: Any) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=torch.float32).as_subclass(Tensor).reshape(-1).clone()
    except (TypeError, ValueError, RuntimeError):
        raise StillhouseError(f"the target is {type(value).__name__}", hint="give a list of numbers") from None
    if not bool(torch.isfinite(vector).all()):
        raise StillhouseError("the target has numbers that are not finite")
    return vector


def guess_kind(target: Any) -> Kind:
    """The kind of a data set's target, by its type and shape; ``class`` where nothing else fits."""
    if target is None:
        return "none"
    if isinstance(target, Mapping):
        return "boxes"
    if isinstance(target, Image.Image):
        if target.mode in ("1", "L", "P"):
            return "mask"
        return "image" if len(target.getbands()) > 1 else "depth"
    if isinstance(target, Tensor | np.ndarray):
        floats = target.is_floating_point() if isinstance(target, Tensor) else target.dtype.kind == "f"
        shape = tuple(target.shape)
        if len(shape) == 3 and 1 not in (shape[0], shape[2]):
            return "image"
        if len(shape) >= 2:
            return "depth" if floats else "mask"
        return "vector" if len(shape) == 1 and shape[0] > 1 else "class"
    several = isinstance(target, Sequence) and not isinstance(target, str) and len(target) > 1
    return "vector" if several and all(isinstance(n, int | float) for n in target) else "class"


def spatial(kind: str, target: Any) -> tuple[int, int] | None:
    """Height and width of a target that has the image's; None for others."""
    return tuple(target.shape[-2:]) if kind in ("mask", "depth", "image") else None


def resized(kind: str, target: Any, before: tuple[int, int], size: tuple[int, int]) -> Any:
    """``target`` after its image went from height and width ``before`` to ``size``.

    Masks and depths take the nearest pixel, so that no class and no depth is made up between two; images are
    interpolated (bilinear, antialiased); boxes are scaled.
    """
    if before == size:
        return target
    if kind in ("mask", "depth"):
        plane = target if kind == "depth" else target[None]
        out = F.resize_image(plane, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
        return out if kind == "depth" else out[0]
    if kind == "image":
        return F.resize_image(target, list(size), antialias=True)
    if kind == "boxes":
        factor = torch.tensor([size[1] / before[1], size[0] / before[0]] * 2)
        return {**target, "boxes": target["boxes"] * factor}
    return target


def finished(kind: str, target: Any) -> Any:
    """A kept target as a task gets it: masks as int64, images as float32 from 0 to 1; never the kept tensor itself."""
    if kind == "mask":
        return target.long()
    if kind == "image":
        return target.float().div_(255) if target.dtype == torch.uint8 else target.clone()
    if kind == "boxes":
        return {key: value.clone() for key, value in target.items()}
    return target.clone() if isinstance(target, Tensor) else target


def packed(values: Sequence[Any]) -> Any:
    """Tensors of one shape and type as one tensor, anything else as a list."""
    first = values[0]
    if isinstance(first, Tensor) and all(v.shape == first.shape and v.dtype == first.dtype for v in values):
        return torch.stack(list(values))
    return list(values)


def described(kind: str, target: Any) -> str:
    """A target's shape, for messages."""
    return shape_text(target) if isinstance(target, Tensor) else kind
