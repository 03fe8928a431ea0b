"""Sources of samples: a Source numbers them, has their labels and splits, and reads them one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.config.home import find_path
from stillhouse.data.draws import Begin
from stillhouse.data.splits import hold_out
from stillhouse.data.targets import Kind, TargetSpec
from stillhouse.errors import Fault, raise_faults

__all__ = ["ALIASES", "Digits", "Part", "Source", "SourceRequest"]

Ids = NDArray[np.int64]

ALIASES = {"valid": "val", "validation": "val"}
"""Other names of splits, as folders and data sets have them."""


@attrs.frozen(eq=False)
class SourceRequest:
    """What is asked of a source of samples beside its name.

    Attributes:
        args: the recipe's ``[data] args``; a key that is not known is to be refused.
        val_fraction: share of each class to hold out where the source has no validation split.
        base: the recipe's folder, which relative paths and modules are looked up in.
        skip_bad: leave out files whose partner is missing, and go on where samples cannot be read.
        background: the level of grey, 0 to 255, that transparent pixels of images are laid on.
    """

    args: Mapping[str, Any] = attrs.field(factory=dict)
    val_fraction: float = 0.1
    base: Path | None = None
    skip_bad: bool = False
    background: int = 255

    def path(self, text: str) -> Path:
        """A path of the recipe's, from its folder on."""
        return find_path(text, self.base)


class Part(NamedTuple):
    """Samples that are in memory.

    Attributes:
        inputs: (M, ...), as :meth:`Source.read` gives each; a list of M where their shapes differ.
        targets: as :meth:`Source.pair` gives each, a tensor or a list of M; None for class indices, and where there are none.
        rows: the row of each of the part's ids, in their order; None: one row after the other.
    """

    inputs: Tensor | list[Tensor]
    targets: Tensor | list[Any] | None = None
    rows: Ids | None = None


class Source(ABC):
    """Labelled samples, numbered 0 ... N-1 over all splits: a sample's id never depends on the split or the subset.

    Attributes:
        class_names: by label.
        labels: the label of every sample (N,); 0 where targets are not class indices.
        splits: the ids of each split, sorted; ``train`` is among them.
        pure: reading a sample gives the same every time, so that it may be kept in memory.
        vector_length: how many numbers each target of kind ``vector`` has, once the first one was read.
        stamp: a hash of what there is, for the fingerprint, without times and places; None: samples' values are hashed.
        weights: the factor of every sample (N,) in the task's loss, float32; None: each counts alike.
        shards: the shard that every sample (N,) lies in, where many of them lie in one file, numbered in its order.
        doubtful: ids that are looked at before training in any case, such as those of empty files.
        target: the targets' kind: see :attr:`stillhouse.data.DataInfo.target`.
        spec: how targets are read; None: they are class indices.
    """

    class_names: tuple[str, ...]
    labels: Ids
    splits: dict[str, Ids]
    weights: NDArray[np.float32] | None = None
    shards: Ids | None = None
    pure: bool = True
    stamp: bytes | None = None
    doubtful: tuple[int, ...] = ()
    vector_length: int | None = None
    target: Kind = "class"
    spec: TargetSpec | None = None

    @abstractmethod
    def read(self, i: int) -> Tensor:
        """Read sample ``i``'s input: uint8 or float32, (C, H, W) for images.

        Raises:
            StillhouseError: it cannot be read; its place is named.
        """

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """Read sample ``i``'s input and target: an int for a class, else as :meth:`TargetSpec.read` gives it.

        Raises:
            StillhouseError: one of them cannot be read; its place is named.
        """
        return self.read(i), int(self.labels[i])

    @abstractmethod
    def place(self, i: int) -> str:
        """Name sample ``i``'s place, for messages: a file, or ``split 'train', sample 12``."""

    def gather(self, ids: Ids, begin: Begin | None) -> Tensor | None:
        """Read the inputs (B, ...) of several samples with class indices at once, where that is quicker.

        Args:
            ids: the samples (B,).
            begin: call it with a row before that row's sample is read, one after the other, so that what it draws is its
                own; None: nothing is drawn.

        Returns:
            What :meth:`read` gives, stacked; None where it can't be, or anything is amiss: each sample is read by itself
            then, and one that cannot be used is named.
        """
        return None

    def hold(self) -> Sequence[Part] | None:
        """Return all samples, where they are tensors in memory already: they are taken as they are, and no copy is made.

        The parts follow one another by id, and together have every id; None: samples are read one by one.
        """
        return None

    def read_stored(self, i: int) -> bytes | None:
        """Return the bytes of sample ``i``'s input as stored, where they can be had without decoding; else None."""
        return None

    def hash_contents(self, ids: Ids) -> bytes:
        """Hash the files of ``ids``, in order; nothing where samples are no files."""
        return b""

    def target_place(self, i: int) -> str:
        """Return the path of the target's file and a blank, where that is another file; else nothing."""
        return ""

    def channels(self) -> int | None:
        """Return the number of channels that inputs get by default; None: those they have."""
        return None

    def split_up(self, val_fraction: float, whole: bool) -> None:
        """Hold out a validation split where there is none, by class; of a ``whole`` data set also a test split of that size.

        Raises:
            StillhouseError: a split is empty.
        """
        held = ([] if "val" in self.splits else ["val"]) + (["test"] if whole else [])
        if held and val_fraction > 0:
            parts = hold_out(self.splits["train"], self.labels, [val_fraction] * len(held))
            for name, ids in zip(["train", *held], parts, strict=True):
                self.splits[name] = ids
        n, hint = len(self.labels), "0 makes no such split"
        if n > 1 and len(np.unique(self.labels)) == n:
            hint = f'each of {n} samples is of a class of its own: numbers that are measured take target = "vector"'
        raise_faults(
            Fault("data.val_fraction", f"too few samples to hold out the split {name!r}", hint)
            if name in held
            else Fault("data.name", f"the split {name!r} is empty")
            for name, ids in self.splits.items()
            if len(ids) == 0
        )
        order = [*dict.fromkeys([n for n in ("train", "val", "test") if n in self.splits] + list(self.splits))]
        self.splits = {name: self.splits[name] for name in order}


class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey; 0 ... 16 becomes 0 ... 255, rounded (no two values meet).

    Always split alike, by class: 1,079 train, 359 val, 359 test. A sample's id is its position in scikit-learn's array.
    """

    def __init__(self) -> None:
        pixels, labels = _read_digits()
        self.images = torch.from_numpy(np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))[:, None]
        self.labels = labels.astype(np.int64)
        self.class_names = tuple(map(str, range(10)))
        ids = np.arange(len(self.labels), dtype=np.int64)
        self.splits = dict(zip(("train", "val", "test"), hold_out(ids, self.labels, [0.2, 0.2]), strict=True))

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return self.images[i]

    def hold(self) -> Sequence[Part]:
        """See :meth:`Source.hold`."""
        return [Part(self.images)]

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return f"sklearn:digits, sample {i}"


def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """scikit-learn's digits, pixels (1797, 64) of 0 to 16 and labels (1797,).

    Out of scikit-learn's file: importing the package takes longer than the first epoch.
    """
    spec = find_spec("sklearn")
    folders = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    file = next((f for folder in folders if (f := folder / "datasets" / "data" / "digits.csv.gz").is_file()), None)
    if file is None:  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits

        loaded = load_digits()
        return loaded.data, loaded.target
    table = np.loadtxt(file, delimiter=",")  # unpacks by the suffix
    return table[:, :-1], table[:, -1]
