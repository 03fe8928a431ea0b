"""torchvision's ColorJitter for a whole batch: each image with factors and an order of its own."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.kernels import Drawn
from stillhouse.data.random_numbers import Uniform, between

__all__ = ["Jitter", "adjust_brightness", "adjust_contrast", "adjust_hue", "adjust_saturation"]

Factors = NDArray[np.float64]
"""A factor for each image (B,)."""

Range = tuple[float, float]


@attrs.frozen
class Jitter:
    """Brightness, contrast, saturation and hue of each image, in an order that is drawn too.

    Attributes:
        brightness: the range of its factor; None: as it is. Likewise:
        contrast: ...
        saturation: ...
        hue: what is added to the hue, a turn being 1.
    """

    brightness: Range | None = None
    contrast: Range | None = None
    saturation: Range | None = None
    hue: Range | None = None
    numbers: int = attrs.field(default=8, init=False)

    @property
    def _ranges(self) -> dict[str, Range | None]:
        return {name: getattr(self, name) for name in _ADJUST}

    def draw(self, u: Uniform, _shape: tuple[int, ...]) -> Drawn:
        """See :meth:`stillhouse.data.kernels.Kernel.draw`; ``fn_idx`` (4, B) is the order, what stays as it is last."""
        keys = u[:4].copy()
        drawn: Drawn = {}
        for place, (name, limits) in enumerate(self._ranges.items()):
            if limits is None:
                keys[place] = 2.0
            else:
                drawn[f"{name}_factor"] = between(u[4 + place], *limits)
        return {"fn_idx": np.argsort(keys, axis=0, kind="stable"), **drawn}

    def apply(self, x: Tensor, drawn: Drawn) -> Tensor:
        """See :meth:`stillhouse.data.kernels.Kernel.apply`."""
        for order in drawn["fn_idx"][: len(drawn) - 1]:
            changed = x.clone()
            for place, (name, adjust) in enumerate(_ADJUST.items()):
                rows = np.flatnonzero(order == place)
                if len(rows):
                    at = torch.from_numpy(rows)
                    changed[at] = adjust(x[at], drawn[f"{name}_factor"][rows])
            x = changed
        return x


def adjust_brightness(x: Tensor, factors: Factors) -> Tensor:
    """Multiply images (B, C, H, W) by their factors."""
    _check_channels(x)
    return _finish(x * _by_image(factors), x)


def adjust_contrast(x: Tensor, factors: Factors) -> Tensor:
    """Move pixels of images (B, C, H, W) away from the mean of the grey image, or towards it."""
    grey = x.float() if x.shape[1] == 1 else _to_grey(x)
    # The mean by image: torch sums in another order over several.
    means = torch.stack([torch.mean(image, dim=(-3, -2, -1), keepdim=True) for image in grey])
    return _blend(x, means, factors)


def adjust_saturation(x: Tensor, factors: Factors) -> Tensor:
    """Move pixels of images (B, C, H, W) away from the grey image, or towards it; grey images stay as they are."""
    return x if x.shape[1] == 1 else _blend(x, _to_grey(x), factors)


def adjust_hue(x: Tensor, shifts: Factors) -> Tensor:
    """Turn the hue of images (B, C, H, W) by ``shifts``, a whole turn being 1; grey images stay as they are."""
    from torchvision.transforms.v2 import functional as F

    _check_channels(x)
    if x.shape[1] == 1:
        return x
    hue, saturation, value = _to_hsv(F.to_dtype(x, torch.float32, scale=True))
    turned = hue.add_(_by_image(shifts)[:, 0]).remainder_(1.0)
    out: Tensor = F.to_dtype(_from_hsv(turned, saturation, value), x.dtype, scale=True)
    return out


_ADJUST: dict[str, Callable[[Tensor, Factors], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
"""In torchvision's order, which ``fn_idx`` counts in."""


def _check_channels(x: Tensor) -> None:
    if x.shape[1] not in (1, 3):
        raise TypeError(f"images must have 1 or 3 channels, got {x.shape[1]}")


def _by_image(factors: Factors) -> Tensor:
    return torch.from_numpy(factors).float()[:, None, None, None]


def _finish(out: Tensor, x: Tensor) -> Tensor:
    return out.clamp_(0, 1 if x.is_floating_point() else 255).to(x.dtype)


def _to_grey(x: Tensor) -> Tensor:
    """Grey images (B, 1, H, W), float32, of colour ones; whole numbers where those are."""
    _check_channels(x)
    red, green, blue = x.unbind(1)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]
    return grey if x.is_floating_point() else grey.floor_()


def _blend(x: Tensor, other: Tensor, factors: Factors) -> Tensor:
    """Compute ``factor * x + (1 - factor) * other``."""
    out = x * _by_image(factors)
    # By image, for torch multiplies and adds at once where the factor is a number, and rounds less.
    for made, term, factor in zip(out, other, factors.tolist(), strict=True):
        made.add_(term, alpha=1.0 - factor)
    return _finish(out, x)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value (B, H, W), each 0 to 1, of colours (B, 3, H, W)."""
    red, green, _ = x.unbind(1)
    value = x.amax(1)
    spread = value - x.amin(1)
    is_grey = spread == 0
    saturation = spread / torch.where(is_grey, 1.0, value)
    r, g, b = ((value[:, None] - x) / torch.where(is_grey, 1.0, spread)[:, None]).unbind(1)
    sixths = torch.where(value == red, b - g, torch.where(value == green, r + 2.0 - b, g + 4.0 - r))
    return sixths.mul_(1.0 / 6.0).add_(1.0).fmod_(1.0), saturation, value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (B, 3, H, W) of hue, saturation and value (B, H, W)."""
    sixths = hue * 6
    sector = sixths.floor()
    part = saturation * (sixths - sector)
    paler = 1.0 - saturation
    falling = (1.0 - part).mul_(value).clamp_(0.0, 1.0)
    rising = (part + paler).mul_(value).clamp_(0.0, 1.0)
    least = (paler * value).clamp_(0.0, 1.0)
    levels = torch.stack((value, least, falling, rising), dim=1)
    return levels.gather(1, _LEVEL[:, sector.long().remainder_(6)].movedim(0, 1))


_LEVEL = torch.tensor([[0, 2, 1, 1, 3, 0], [3, 0, 0, 2, 1, 1], [1, 1, 3, 0, 0, 2]])
"""Of red, green and blue in each sixth of the circle: 0 the value, 1 the least, 2 falling, 3 rising."""
