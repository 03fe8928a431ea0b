"""What flows from the data to the loop: a batch, and what is known of the data."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
from torch import Tensor

__all__ = ["Batch", "DataInfo"]


@attrs.frozen
class DataInfo:
    """What is known of the data.

    Attributes:
        classes: how many classes; 0 where targets have none.
        class_names: by label.
        input_shape: of one input in training, for images (C, H, W).
        sizes: samples by split, after ``per_class`` and ``limit``; ``unlabelled``: those that training draws besides.
        fingerprint: changes when the data or what is done to it before the model changes.
        mean: what was subtracted, by channel, of inputs scaled to 0 ... 1; empty: nothing.
        std: what was divided by.
        target: the kind of target the source gives: ``class`` (an index, (B,) int64), ``mask`` (an index each pixel,
            (B, H, W) int64), ``depth`` (metres, (B, 1, H, W) float32, 0 where nothing was measured), ``image``
            ((B, C, H, W) float32, 0 to 1), ``vector`` ((B, D) float32), ``boxes`` (a list of dicts of ``boxes``
            (N, 4) float32 in pixels x1, y1, x2, y2 and ``labels`` (N,) int64) or ``none``. A task's ``sample`` may make
            another of it.
        target_shape: of one target as it is read, where that is a tensor: (H, W), (1, H, W), (C, H, W) or (D,).
        ignore: of masks, the value beside the classes that marks pixels without a label; None: there is none.
        class_counts: training samples of each class, where each sample has one.
        eval_shape: of one input in evaluation; it differs from ``input_shape`` where transforms change the size.
    """

    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    sizes: dict[str, int]
    fingerprint: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target: str = "class"
    target_shape: tuple[int, ...] = ()
    ignore: int | None = None
    eval_shape: tuple[int, ...] = ()
    class_counts: tuple[int, ...] = ()


class Batch(NamedTuple):
    """One batch.

    Attributes:
        input: float32, for images (B, C, H, W).
        target: class indices (B,), int64, or what the task's ``collate`` makes of its targets.
        id: the samples' ids (B,), int64: positions in their source, whatever the epoch, the split or the subset.
        weight: the samples' factors in the task's loss (B,), float32; None: each counts alike.
    """

    input: Tensor
    target: Any
    id: Tensor
    weight: Tensor | None = None
