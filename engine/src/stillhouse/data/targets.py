"""Targets of samples: masks, depths, paired images, vectors, boxes; from files or data sets to tensors."""

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

__all__ = ["Kind", "TargetSpec", "convert_target", "find_size", "guess_kind", "resize_target", "stack"]

Kind = Literal["class", "mask", "depth", "image", "vector", "boxes", "none"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class TargetSpec:
    """Description of the targets; its attributes are keys of ``[data] args``.

    Attributes:
        target: their kind: ``class``, ``mask``, ``depth``, ``image``, ``vector``, ``boxes`` or ``none``.
        classes: of classes, masks and boxes: the names by index, or how many there are.
        ignore: of masks: a value beside the classes that marks pixels without a label.
        scale: of depths: metres per unit; None: 0.001 for whole numbers (millimetres), 1 for floats.
        holes: of depths: stored values that mean that nothing was measured; they become 0, as does what is not finite.
    """

    target: Kind
    classes: int | tuple[str, ...] | None = None
    ignore: int | None = None
    scale: float | None = None
    holes: tuple[float, ...] = (0.0,)

    def __attrs_post_init__(self) -> None:
        faults = []
        if self.target in ("mask", "boxes") and not self.classes:
            what = f"{self.target} targets need classes" + ("" if self.classes is None else f", got {self.classes!r}")
            faults.append(Fault("classes", what, 'classes = ["sky", "road"], or their number'))
        elif isinstance(self.classes, int) and self.classes < 0:
            faults.append(Fault("classes", f"must be >= 1, got {self.classes}"))
        of = {"classes": ("mask", "boxes", "class"), "ignore": ("mask",), "scale": ("depth",)}
        faults += [
            Fault(key, f"needs a target of kind {' or '.join(kinds)}, got {self.target}")
            for key, kinds in of.items()
            if getattr(self, key) is not None and self.target not in kinds
        ]
        if self.scale is not None and self.scale <= 0:
            faults.append(Fault("scale", f"must be > 0, got {self.scale}", "metres per unit"))
        names = self.class_names
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            faults.append(Fault("classes", f"must be distinct, got twice: {', '.join(twice)}"))
        if self.ignore is not None and self.ignore in range(len(self.class_names)):
            faults.append(Fault("ignore", f"must not be a class index, got {self.ignore}", "such as 255"))
        raise_faults(faults)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index; numbers where only their count is known."""
        given = self.classes or ()
        return tuple(str(n) for n in range(given)) if isinstance(given, int) else given

    def read(self, value: Any) -> Any:
        """Convert one target to the form it is kept in.

        Args:
            value: a PIL image, a numpy array, a tensor, a list of numbers, or a dict of boxes and labels.

        Returns:
            A mask (H, W), uint8 or int32; depths (1, H, W) in metres, float32; an image (C, H, W), uint8 or float32; a
            vector (D,), float32; ``{boxes: (N, 4) float32, labels: (N,) int64}``; or None.

        Raises:
            StillhouseError: it is not of that kind, or has values out of range.
        """
        reader = {
            "mask": self._read_mask,
            "depth": self._read_depth,
            "image": to_tensor,
            "vector": _read_vector,
            "boxes": self._read_boxes,
        }
        return None if self.target == "none" else reader[self.target](value)

    def _read_mask(self, value: Any) -> Tensor:
        array = _read_plane(value, "mask", "index images (mode L or P), one class number a pixel")
        if array.dtype.kind not in "iub":
            raise StillhouseError(f"the mask must hold whole numbers (class indices), got {array.dtype}")
        indices = torch.from_numpy(array.astype(np.int32))
        wrong = (indices < 0) | (indices >= len(self.class_names))
        if self.ignore is not None:
            wrong &= indices != self.ignore
        if bool(wrong.any()):
            values = np.unique(indices[wrong].numpy()).tolist()
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            left_out = "" if self.ignore is None else f" and {self.ignore} is ignored"
            raise StillhouseError(
                f"mask values must be class indices; {int(wrong.sum())} pixels are not: {shown}",
                hint=f"classes are 0 to {len(self.class_names) - 1}{left_out}"
                + ("; `ignore` names a value to leave out" if self.ignore is None else ""),
            )
        small = len(self.class_names) <= 256 and (self.ignore is None or 0 <= self.ignore <= 255)
        return indices.to(torch.uint8) if small else indices

    def _read_depth(self, value: Any) -> Tensor:
        array = _read_plane(value, "depth", "one channel: 16-bit PNG or floats (H, W)")
        scale = self.scale if self.scale is not None else (1.0 if array.dtype.kind == "f" else 0.001)
        hole = ~np.isfinite(array) | np.isin(array, self.holes)
        metres = np.where(hole, 0.0, array.astype(np.float64) * scale).astype(np.float32)
        if metres.min(initial=0.0) < 0:
            raise StillhouseError(f"depths must be >= 0 (0: nothing measured), got {metres.min():g} m")
        return torch.from_numpy(metres)[None]

    def _read_boxes(self, value: Any) -> dict[str, Tensor]:
        if not (isinstance(value, Mapping) and "boxes" in value and "labels" in value):
            what = f"a dict of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
            raise StillhouseError(
                f"the target must have boxes and labels, got {what}",
                hint="{ boxes: (N, 4) x1, y1, x2, y2 in pixels, labels: (N,) }",
            )
        boxes = torch.as_tensor(value["boxes"], dtype=torch.float32).reshape(-1, 4).as_subclass(Tensor).clone()
        labels = torch.as_tensor(value["labels"], dtype=torch.int64).reshape(-1).clone()
        if len(boxes) != len(labels):
            raise StillhouseError(f"each box must have one label, got {len(boxes)} boxes and {len(labels)} labels")
        if not bool(torch.isfinite(boxes).all() & (boxes[:, 2:] > boxes[:, :2]).all()):
            raise StillhouseError("boxes must be finite with x1 < x2 and y1 < y2, in pixels")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
            raise StillhouseError(
                f"labels of boxes must be 0 to {len(self.class_names) - 1}, got {sorted(set(labels.tolist()))}"
            )
        return {"boxes": boxes, "labels": labels}


def _to_array(value: Any, kind: str) -> NDArray[Any]:
    if isinstance(value, Image.Image):
        return np.asarray(value)
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).numpy()
    if isinstance(value, np.ndarray):
        return value
    raise StillhouseError(f"the {kind} must be a PIL image, a numpy array or a tensor, got {type(value).__name__}")


def _read_plane(value: Any, kind: str, hint: str) -> NDArray[Any]:
    """Convert to a single channel (H, W); bool becomes uint8."""
    if isinstance(value, Image.Image) and len(value.getbands()) > 1:
        raise StillhouseError(f"the {kind} must have one channel, got mode {value.mode}", hint=hint)
    array = _to_array(value, kind)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise StillhouseError(f"the {kind} must have one channel, got shape {array.shape}", hint=hint)
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _read_vector(value: Any) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=torch.float32).as_subclass(Tensor).reshape(-1).clone()
    except (TypeError, ValueError, RuntimeError):
        raise StillhouseError(f"the target must be a list of numbers, got {type(value).__name__}") from None
    if not bool(torch.isfinite(vector).all()):
        raise StillhouseError("the target's numbers must be finite")
    return vector


def guess_kind(target: Any) -> Kind:
    """Guess the kind of a data set's target by its type and shape; ``class`` where nothing else fits."""
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


def find_size(kind: str, target: Any) -> tuple[int, int] | None:
    """Return height and width of a target that has its image's size; None for other kinds."""
    return tuple(target.shape[-2:]) if kind in ("mask", "depth", "image") else None


def resize_target(kind: str, target: Any, before: tuple[int, int], size: tuple[int, int]) -> Any:
    """Resize ``target`` as its image, from height and width ``before`` to ``size``.

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


def convert_target(kind: str, target: Any) -> Any:
    """Convert a kept target to a task's: masks to int64, images to float32 from 0 to 1; always a copy."""
    if kind == "mask":
        return target.long()
    if kind == "image":
        return target.float().div_(255) if target.dtype == torch.uint8 else target.clone()
    if kind == "boxes":
        return {key: value.clone() for key, value in target.items()}
    return target.clone() if isinstance(target, Tensor) else target


def stack(values: Sequence[Any]) -> Any:
    """Stack tensors of one shape and dtype; anything else becomes a list."""
    first = values[0]
    if isinstance(first, Tensor) and all(v.shape == first.shape and v.dtype == first.dtype for v in values):
        return torch.stack(list(values))
    return list(values)
