"""Which transforms of torchvision work on a whole batch at once, with the same pixels as by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stillhouse.data.colour import Jitter
from stillhouse.data.kernels import Blur, Erasing, Kernel, Sometimes, Whole
from stillhouse.data.warps import Affine, Rotation
from stillhouse.data.windows import CenteredCrop, Mirror, Placement, RandomCrop

__all__ = ["find_batch_form"]


def find_batch_form(transform: Any) -> Placement | Kernel | None:
    """Find what does the same as ``transform`` on a batch; None where nothing does, and it is called by sample.

    Classes are known by name, and only torchvision's own: a subclass may do anything.
    """
    kind = type(transform)
    if not kind.__module__.startswith("torchvision.transforms.v2."):
        return None
    make = _FORMS.get(kind.__name__)
    return None if make is None else make(transform)


def _make_crop(crop: Any) -> Placement | None:
    padded = bool(crop.padding or crop.pad_if_needed)
    value = _read_value(crop.fill)
    if padded and (crop.padding_mode != "constant" or value is None):
        return None
    padding = tuple(crop.padding or (0, 0, 0, 0))
    return RandomCrop(tuple(crop.size), padding, bool(crop.pad_if_needed), value if padded else None)


def _read_value(fill: Any) -> int | None:
    """A fill value that is the same for every channel and in every dtype; None: it is another."""
    if fill is None:
        return 0
    whole = isinstance(fill, int | float) and fill == int(fill) and 0 <= fill <= 255
    return int(fill) if whole else None


def _make_jitter(jitter: Any) -> Kernel:
    return Jitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)


def _make_erasing(erasing: Any) -> Kernel | None:
    if erasing.value is None:  # noise for every pixel
        return None
    value = erasing.value if isinstance(erasing.value, list | tuple) else [erasing.value]
    return Erasing(erasing.p, tuple(erasing.scale), tuple(erasing.ratio), tuple(map(float, value)))


def _make_blur(blur: Any) -> Kernel:
    return Blur(tuple(blur.kernel_size), tuple(blur.sigma))


def _make_rotation(rotation: Any) -> Kernel | None:
    common = _read_resampling(rotation)
    if rotation.expand or common is None:
        return None
    return Rotation(degrees=tuple(rotation.degrees), transform=rotation, **common)


def _make_affine(affine: Any) -> Kernel | None:
    common = _read_resampling(affine)
    if common is None:
        return None
    shear = None if affine.shear is None else tuple(affine.shear)
    return Affine(
        degrees=tuple(affine.degrees),
        translate=None if affine.translate is None else tuple(affine.translate),
        scale=None if affine.scale is None else tuple(affine.scale),
        shear=None if shear is None else (shear[:2], shear[2:] or (0.0, 0.0)),
        **common,
    )


def _read_resampling(transform: Any) -> dict[str, Any] | None:
    """Interpolation, fill and centre of a transform that resamples; None where one of them is unusual."""
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    fill = transform.fill
    if mode not in ("nearest", "bilinear") or isinstance(fill, dict | str):
        return None
    values = None if fill is None else tuple(map(float, fill if isinstance(fill, list | tuple) else [fill]))
    return {
        "interpolation": mode,
        "fill": values,
        "center": None if transform.center is None else tuple(map(float, transform.center)),
    }


_FORMS: dict[str, Callable[[Any], Placement | Kernel | None]] = {
    "CenterCrop": lambda crop: CenteredCrop(tuple(crop.size)),
    "ColorJitter": _make_jitter,
    "GaussianBlur": _make_blur,
    "Grayscale": Whole,
    "Normalize": Whole,
    "RGB": Whole,
    "RandomAdjustSharpness": lambda sharpness: Sometimes(sharpness, one_by_one=True),
    "RandomAffine": _make_affine,
    "RandomAutocontrast": Sometimes,
    "RandomCrop": _make_crop,
    "RandomEqualize": Sometimes,
    "RandomErasing": _make_erasing,
    "RandomGrayscale": Sometimes,
    "RandomHorizontalFlip": lambda flip: Mirror(flip.p),
    "RandomInvert": Sometimes,
    "RandomPosterize": Sometimes,
    "RandomRotation": _make_rotation,
    "RandomSolarize": Sometimes,
    "RandomVerticalFlip": lambda flip: Mirror(flip.p, vertical=True),
    "ToDtype": Whole,
}
