"""A look at samples before training: those that cannot be used are named, and what no run could learn from is said."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.boxes import LOST, fit_boxes
from stillhouse.data.file_source import FileSource
from stillhouse.data.files import show_name
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.memory import Errors, refuse_bad_samples
from stillhouse.data.sampler import Ids, Key
from stillhouse.data.samples import Samples
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["inspect"]

_IN_MEMORY = 4096
"""Samples of a split that are looked at where looking costs nothing."""
_READ = 128
"""Samples of a split that are read to be looked at."""
_SHOWN = 4
_MOST_CHANNELS = 4
"""Of a picture: red, green, blue and how opaque it is."""
_WITHOUT = {"class": "a {split} sample", "mask": "a pixel of a {split} mask", "boxes": "a {split} box"}


def inspect(samples: Samples, splits: Mapping[str, Ids], batch_size: int) -> tuple[str, ...]:
    """Look at the samples in memory, or else at a batch of ``val`` and at some of every other split.

    Args:
        samples: not normalised yet.
        splits: the ids in use.
        batch_size: of evaluation.

    Returns:
        What a run should be told of: classes that are missing. What concerns all who read the samples is warned of.

    Raises:
        StillhouseError: samples that cannot be used, all of them named; inputs that are all the same; boxes that are none.
    """
    errors: Errors = {}
    looks = {}
    for split, ids in splits.items():
        held = samples.memory is not None and samples.memory.holds_all(ids)
        chosen = _choose(ids, _IN_MEMORY if held else _READ, samples, batch_size if split == "val" else 0)
        looks[split] = _Look(samples, len(chosen) == len(ids), all_labels=ids)
        looks[split].go_over(chosen, errors, stop_early=held)
    refuse_bad_samples(errors, sum(look.tried for look in looks.values()), skip_bad=False)
    if samples.maker is not None:
        for ids in (splits["train"][:1], splits.get("val", splits["train"])[:batch_size]):
            samples.plain.batch(Key(0, ids))
    _refuse_equal_inputs(samples, looks["train"])
    _judge_boxes(samples, list(looks.values()))
    _warn_of_reading(samples)
    notes = [_describe_missing(samples, looks[split], split) for split in ("train", "val") if split in looks]
    return tuple(filter(None, [describe_layout(samples.shape), *notes, *_describe_targets(looks["train"])]))


def describe_layout(shape: Sequence[int]) -> str:
    """What a run should be told of inputs of ``shape`` that seem to have their channels last; else nothing."""
    if len(shape) != 3 or shape[0] <= _MOST_CHANNELS or not 0 < shape[2] <= _MOST_CHANNELS:
        return ""
    return (
        f"inputs have the shape {tuple(shape)}: models take channels first, (C, H, W), and these seem to have them last"
    )


def _choose(ids: Ids, n: int, samples: Samples, first: int) -> Ids:
    """Choose ``n`` of ``ids`` evenly spaced, the ``first`` ones and the doubtful ones among them."""
    some = ids[np.linspace(0, len(ids) - 1, min(n, len(ids))).astype(np.int64)]
    doubtful = np.asarray(samples.source.doubtful, dtype=np.int64)
    return np.unique(np.concatenate([some, doubtful[np.isin(doubtful, ids)], ids[: min(first, _READ)]]))


class _Look:
    """What is seen of a split's samples.

    Args:
        samples: the samples.
        whole: whether all of the split are looked at.
        all_labels: the split's ids, whose labels are known without looking.
    """

    def __init__(self, samples: Samples, whole: bool, all_labels: Ids) -> None:
        self.whole, self.tried, self.read = whole, 0, 0
        self._samples, self.kind = samples, samples.source.target
        classes = len(samples.source.class_names)
        self.classes: NDArray[np.bool_] | None = np.zeros(classes, dtype=bool) if self.kind in _WITHOUT else None
        if self.kind == "class":
            labels = samples.source.labels[all_labels]
            self.classes = np.isin(np.arange(classes), labels)
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.differ = False
        self.measured = False
        self.boxes = np.zeros(3, dtype=np.int64)  # in all, dropped, cut off
        self.farthest = 0.0
        self.first_lost: int | None = None
        self.targets: list[Tensor] = []

    def go_over(self, ids: Ids, errors: Errors, stop_early: bool) -> None:
        """Read ``ids``; with ``stop_early`` until nothing more can be found out."""
        with OwnRandomness() as randomness:
            for i in map(int, ids):
                self.tried += 1
                randomness.seed(mix(i))
                try:
                    x, target = self._samples.read_pair(i)
                except StillhouseError as error:
                    errors[i] = error
                    continue
                self.read += 1
                if self._samples.seen is not None and not stop_early:
                    self._samples.seen.add(i, x, target)
                self._see(i, x, target)
                if stop_early and self.differ and self._is_full():
                    return

    def _is_full(self) -> bool:
        if self.kind == "boxes" or self.kind == "vector":
            return False
        return self.measured if self.kind == "depth" else self.classes is None or bool(self.classes.all())

    def _see(self, i: int, x: Tensor, target: Any) -> None:
        if not self.differ:
            flat = x.reshape(x.shape[0], -1)
            low, high = flat.amin(1), flat.amax(1)
            if self.low is None or self.high is None or low.shape != self.low.shape:
                self.low, self.high = low, high
            else:
                self.low, self.high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            self.differ = bool((self.low < self.high).any())
        if self.kind == "mask" and self.classes is not None and not self.classes.all():
            found = torch.bincount(target.flatten()[target.flatten() >= 0].long(), minlength=len(self.classes))
            self.classes |= (found[: len(self.classes)] > 0).numpy()
        elif self.kind == "depth":
            self.measured = self.measured or bool((target > 0).any())
        elif self.kind == "vector":
            self.targets.append(target)
        elif self.kind == "boxes":
            self._see_boxes(i, target)

    def _see_boxes(self, i: int, target: Mapping[str, Tensor]) -> None:
        lost = target[LOST].numpy()
        self.boxes += (len(target["labels"]) + lost[0], *lost)
        if lost.any() and self.first_lost is None:
            self.first_lost = i
        if len(target["labels"]):
            self.farthest = max(self.farthest, float(target["boxes"].max()))
            assert self.classes is not None  # of boxes there are classes
            self.classes[target["labels"].numpy()] = True


def _refuse_equal_inputs(samples: Samples, look: _Look) -> None:
    if look.differ or look.read < 2:
        return
    assert look.low is not None  # something was read
    values = ", ".join(f"{value:g}" for value in look.low.tolist()[:4]) + (", ..." if len(look.low) > 4 else "")
    raise StillhouseError(
        f"every input is constant, and the same: {values} in each of {look.read} training samples",
        where="data",
        hint=f"look at {samples.source.place(samples.first)}",
    )


_RELATIVE = 2
"""Pixels that no box of a whole set leaves: they are shares of the image's size, some of things that its border cuts off."""


def _judge_boxes(samples: Samples, looks: list[_Look]) -> None:
    total, dropped, cut = np.sum([look.boxes for look in looks], axis=0).tolist()
    if not total:
        return
    first = next((look.first_lost for look in looks if look.first_lost is not None), samples.first)
    place = samples.source.place(first)
    read = sum(look.read for look in looks)
    if dropped + cut > total / 2:
        raise StillhouseError(
            f"boxes must lie in their image, with x1 < x2 and y1 < y2: {dropped + cut} of {total} do not{_give_example(samples, first)}",
            where=place,
            hint="x1, y1, x2, y2 in pixels of the image: not its width and height, and not those of another size",
        )
    farthest = max(look.farthest for look in looks)
    if farthest <= _RELATIVE:
        raise StillhouseError(
            f"boxes must be in pixels, and all {total} lie between 0 and {1 if farthest <= 1 else _RELATIVE}",
            where=samples.source.place(samples.first),
            hint="multiply them by the image's width and height",
        )
    said = [f"{dropped} have no area there and are left out"] if dropped else []
    said += [f"{cut} are cut off at its border"] if cut else []
    if said:
        warnings.warn(
            f"of {total} boxes in {read} images looked at, which should lie in their image, {' and '.join(said)}, the first in {place}",
            StillhouseWarning,
            stacklevel=2,
        )


def _give_example(samples: Samples, i: int) -> str:
    """Give a box of sample ``i`` that is none, as it is stored, with its image's size."""
    with OwnRandomness() as randomness:
        randomness.seed(mix(i))
        x, target = samples.source.pair(i)
    height, width = x.shape[-2:]
    for box in target["boxes"]:
        if int(fit_boxes({"boxes": box[None], "labels": torch.zeros(1)}, height, width)[LOST].sum()):
            return f", such as {', '.join(f'{n:g}' for n in box.tolist())} in {width}x{height} (width x height)"
    return ""


def _warn_of_reading(samples: Samples) -> None:
    source, said = samples.source, []
    if isinstance(source, FileSource):
        below = f"of the images looked at below {show_name(source.root)}"
        if source.look.frames:
            said.append(f"{source.look.frames} {below} hold several pictures: the first is read")
        if source.look.mixed:
            said.append(
                f"some {below} hold 8 bits a channel and some 16: each is read by its own range, and one of 12 bits that is "
                "stored in 16 is 16 times as dark as the others"
            )
    if isinstance(source, DatasetSource) and source.unclear:
        said.append(
            f"{source.unclear} images of {source.origin} were to be turned by their EXIF orientation and have been "
            "converted: they are taken as they are (ImageOps.exif_transpose, before that, makes it certain)"
        )
    for text in said:
        warnings.warn(text, StillhouseWarning, stacklevel=2)


def _describe_missing(samples: Samples, look: _Look, split: str) -> str:
    """Describe the classes that a split does not have; empty where it has all."""
    if look.classes is None or look.classes.all():
        return ""
    names = [repr(samples.source.class_names[i]) for i in np.flatnonzero(~look.classes)]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    kind = samples.source.target
    what = _WITHOUT[kind].format(split="training" if split == "train" else "validation")
    some = "" if look.whole or kind == "class" else f" among the {look.read} looked at"
    effect = "nothing is learnt of them" if split == "train" else "the score says nothing of them"
    return f"{len(names)} of {len(look.classes)} classes are without {what}{some}: {shown} ({effect})"


def _describe_targets(look: _Look) -> list[str]:
    """Describe targets that say nothing: depths without a measurement, numbers that never differ."""
    if look.read and not look.measured and look.kind == "depth":
        return [f"none of the {look.read} training depths looked at has a measured pixel"]
    if len(look.targets) > 1:
        every = torch.stack(look.targets)
        same = (every.amin(0) == every.amax(0)).nonzero().flatten().tolist()
        if same:
            shown = ", ".join(map(str, same[:_SHOWN])) + (
                f" and {len(same) - _SHOWN} more" if len(same) > _SHOWN else ""
            )
            return [
                f"{len(same)} of {every.shape[1]} numbers of the target are the same in all {len(every)} training samples looked at: {shown}"
            ]
    return []
