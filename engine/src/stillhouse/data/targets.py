"""Targets of samples: masks, depths, paired images, vectors, boxes; from files or data sets to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stillhouse.config.fields import strict_fields
from stillhouse.data.boxes import read_boxes
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
        values: of masks: the value that is stored for each class, such as ``[0, 255]``; None: 0, 1, 2, ...
        scale: of depths: metres per unit; None: 0.001 for whole numbers (millimetres), 1 for floats.
        holes: of depths: stored values that mean that nothing was measured; they become 0, as does what is not finite.
    """

    target: Kind
    classes: int | tuple[str, ...] | None = None
    ignore: int | None = None
    values: tuple[int, ...] | None = None
    scale: float | None = None
    holes: tuple[float, ...] = (0.0,)

    def __attrs_post_init__(self) -> None:
        faults = []
        if self.target in ("mask", "boxes") and not self.classes:
            what = f"{self.target} targets need classes" + ("" if self.classes is None else f", got {self.classes!r}")
            faults.append(Fault("classes", what, 'classes = ["sky", "road"], or their number'))
        elif isinstance(self.classes, int) and self.classes < 0:
            faults.append(Fault("classes", f"must be >= 1, got {self.classes}"))
        of = {"classes": ("mask", "boxes", "class"), "ignore": ("mask",), "values": ("mask",), "scale": ("depth",)}
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
        stored = range(len(names)) if self.values is None else self.values
        if len(set(stored)) != len(names) and self.target == "mask" and names:
            what = f"must be a value for each of {len(names)} classes, all of them distinct, got {list(stored)}"
            faults.append(Fault("values", what))
        if self.ignore is not None and self.ignore in stored:
            what = "a class index" if self.values is None else "one of `values`"
            faults.append(Fault("ignore", f"must not be {what}, got {self.ignore}", "such as 255"))
        raise_faults(faults)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index; numbers where only their count is known."""
        given = self.classes or ()
        return tuple(str(n) for n in range(given)) if isinstance(given, int) else given

    @property
    def ignored(self) -> int | None:
        """What stands for pixels without a label once a mask is read: ``ignore``, or 255 where ``values`` are mapped."""
        if self.ignore is None or self.values is None:
            return self.ignore
        return 255 if len(self.class_names) <= 255 else -1

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
        reader: dict[str, Callable[[Any], Any]] = {
            "mask": self._read_mask,
            "depth": self._read_depth,
            "image": to_tensor,
            "vector": _read_vector,
            "boxes": lambda value: read_boxes(value, len(self.class_names)),
        }
        return None if self.target == "none" else reader[self.target](value)

    def _read_mask(self, value: Any) -> Tensor:
        array = _read_plane(value, "mask", "index images (mode L or P), one class number a pixel")
        if array.dtype.kind not in "iub":
            raise StillhouseError(f"the mask must hold whole numbers (class indices), got {array.dtype}")
        stored = array.astype(np.int32)
        indices, known = self._find_classes(stored)
        labelled = known if self.ignore is None else known | (stored == self.ignore)
        if not labelled.all():
            raise self._make_mask_error(stored, ~labelled)
        if self.ignored is not None:
            indices = np.where(known, indices, np.int32(self.ignored))
        small = len(self.class_names) <= 256 and (self.ignored is None or 0 <= self.ignored <= 255)
        return torch.from_numpy(indices.astype(np.uint8 if small else np.int32))

    def _find_classes(self, stored: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the class of each pixel, and whether it has one."""
        if self.values is None:
            return stored, (stored >= 0) & (stored < len(self.class_names))
        order = np.argsort(self.values)
        values = np.asarray(self.values, dtype=np.int32)[order]
        at = np.searchsorted(values, stored).clip(max=len(values) - 1)
        return order[at].astype(np.int32), values[at] == stored

    def _make_mask_error(self, stored: NDArray[np.int32], wrong: NDArray[np.bool_]) -> StillhouseError:
        classes = len(self.class_names)
        strange = np.unique(stored[wrong]).tolist()
        shown = ", ".join(map(str, strange[:6])) + (", ..." if len(strange) > 6 else "")
        what = f"mask values must be class indices; {int(wrong.sum())} pixels are not: {shown}"
        if self.values is not None:
            return StillhouseError(
                f"mask values must be among `values`; {int(wrong.sum())} pixels are not: {shown}",
                hint=f"values = {list(self.values)}" + ("" if self.ignore is None else f", ignore = {self.ignore}"),
            )
        left_out = "" if self.ignore is None else f" and {self.ignore} is ignored"
        hint = f"classes are 0 to {classes - 1}{left_out}"
        found = np.unique(stored).tolist()
        if classes == 2 and set(found) <= {0, 255}:
            found = [0, 255]
        if len(found) == classes:
            example = f"values = {found}, say, if the classes are stored as these, in this order"
        else:
            example = "`values` lists the value that is stored for each class"
        more = "; `ignore` names a value of pixels without a label" if self.ignore is None else ""
        return StillhouseError(what, hint=f"{hint}; {example}{more}")

    def _read_depth(self, value: Any) -> Tensor:
        array = _read_plane(value, "depth", "one channel: 16-bit PNG or floats (H, W)")
        scale = self.scale if self.scale is not None else (1.0 if array.dtype.kind == "f" else 0.001)
        hole = ~np.isfinite(array) | np.isin(array, self.holes)
        metres = np.where(hole, 0.0, array.astype(np.float64) * scale).astype(np.float32)
        if metres.min(initial=0.0) < 0:
            raise StillhouseError(f"depths must be >= 0 (0: nothing measured), got {metres.min():g} m")
        return torch.from_numpy(metres)[None]


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
        return "vector" if floats or (len(shape) == 1 and shape[0] > 1) else "class"
    if isinstance(target, float):
        return "vector"
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
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

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
        return {key: target[key].clone() for key in ("boxes", "labels")}
    return target.clone() if isinstance(target, Tensor) else target


def stack(values: Sequence[Any]) -> Any:
    """Stack tensors of one shape and dtype; anything else becomes a list."""
    first = values[0]
    if isinstance(first, Tensor) and all(v.shape == first.shape and v.dtype == first.dtype for v in values):
        return torch.stack(list(values))
    return list(values)
