"""What is said of an image in its own pixels, whatever size the student has seen it in: maps, and places.

Both are for tasks to have or not, so :class:`stillhouse.tasks.Task` has neither: ``stillhouse predict`` looks whether a task
does, by its methods alone.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.tasks.maps import get_class_name, resize_map

__all__ = ["GivesMap", "GivesPlaces", "Map", "find_classes", "list_values", "to_millimetres"]


@attrs.frozen(eq=False)
class Map:
    """A number for each pixel, or several, as a PNG file holds them.

    Attributes:
        values: (H, W) or, of three channels, (H, W, 3); uint8, or uint16 of one channel.
        about: what the numbers mean, in one line; into the file as its description.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16]
    about: str


@runtime_checkable
class GivesMap(Protocol):
    """A task whose predictions are maps."""

    def map_of(self, data: DataInfo, output: Any, size: tuple[int, int]) -> Map:
        """One sample's map.

        Args:
            data: what is known of the data.
            output: one sample's, on the CPU.
            size: the image's own height and width, which the map has; a task that makes another picture of the image
                gives that as it was made.
        """


@runtime_checkable
class GivesPlaces(Protocol):
    """A task whose predictions lie at places in the image."""

    def place_in(self, output: Any, seen: tuple[int, int], size: tuple[int, int]) -> Any:
        """One sample's output with its places in the image's own pixels.

        Args:
            output: one sample's, on the CPU, with places in pixels of the input; not changed.
            seen: the input's height and width.
            size: the image's own.
        """


def find_classes(logits: Tensor, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The class of each pixel (H, W) of ``size``: that of the greatest logit.

    Args:
        logits: (C, h, w); brought to ``size`` by bilinear interpolation before they are compared, class after class, since
            all classes of a photograph at once would take gigabytes.
        size: height and width.

    Returns:
        Indices, uint16 where there are more than 256 classes, else uint8; of equal logits the first.
    """
    greatest = resize_map(logits[None, :1], size)[0, 0]
    found = torch.zeros(greatest.shape, dtype=torch.int32)
    for k in range(1, len(logits)):
        values = resize_map(logits[None, k : k + 1], size)[0, 0]
        found[values > greatest] = k
        greatest = torch.maximum(greatest, values)
    indices = found.numpy()
    return indices.astype(np.uint8) if len(logits) <= 256 else indices.astype(np.uint16)


def list_values(data: DataInfo, classes: int) -> str:
    """What the values of a class map mean: ``0 = road, 1 = car``."""
    return ", ".join(f"{k} = {get_class_name(data, k)}" for k in range(classes))


def to_millimetres(metres: Tensor) -> NDArray[np.uint16]:
    """Depths as whole millimetres: 1 to 65535, which means that or farther; 0 where there is no number."""
    thousands = (metres.double() * 1000).round().clamp(1, 65535)  # infinity is far away
    return torch.where(metres.isnan(), 0.0, thousands).numpy().astype(np.uint16)
