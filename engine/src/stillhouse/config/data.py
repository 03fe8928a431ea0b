"""The recipe's ``[data]``: DataSpec, and BlockSplit for splits in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs

from stillhouse.config.fields import strict_fields
from stillhouse.errors import Fault, raise_faults

__all__ = ["BlockSplit", "DataSpec"]


_MOST_BLOCKS = 100_000
"""More than there are frames in an hour of film."""


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class BlockSplit:
    """The recipe's ``[data] split``: validation (and test) samples in contiguous blocks, as frames of a film need.

    The training samples, in the order of their files, are cut into blocks of one size.

    Attributes:
        blocks: the split of each block, in order: ``["train", "val", "train", "train", "test", "train"]``; or how many
            there are, of which ``val_fraction``, at least one, become validation and as many test where the data has no
            test split, evenly spread.
        gap: samples left out between blocks of different splits, from the training block where one is.
    """

    blocks: int | tuple[Literal["train", "val", "test"], ...]
    gap: int = 0

    def __attrs_post_init__(self) -> None:
        faults = [Fault("gap", f"must be >= 0, got {self.gap}")] if self.gap < 0 else []
        if isinstance(self.blocks, int) and not 3 <= self.blocks <= _MOST_BLOCKS:
            faults.append(Fault("blocks", f"must be from 3 to {_MOST_BLOCKS:,}, got {self.blocks}"))
        if isinstance(self.blocks, tuple) and not {"train", "val"} <= set(self.blocks):
            faults.append(
                Fault("blocks", f"must name train and val, got {list(self.blocks)}", '["train", "val", "train"]')
            )
        raise_faults(faults)

    def plan(self, val_fraction: float, held: Sequence[str]) -> tuple[str, ...]:
        """Return the split of each block; ``held`` are the splits to make beside ``train``."""
        if isinstance(self.blocks, tuple):
            return self.blocks
        each = max(1, round(self.blocks * val_fraction))
        number = each * len(held)
        at = [int((j + 0.5) * self.blocks / number) for j in range(number)]
        names = {block: held[j % len(held)] for j, block in enumerate(at)}
        return tuple(names.get(block, "train") for block in range(self.blocks))


_LEAST = {
    "batch_size": 1,
    "eval_batch_size": 1,
    "workers": 0,
    "prefetch": 1,
    "buffer": 1,
    "per_class": 1,
    "limit": 1,
    "size": 1,
    "crop": 1,
}
_MOST = {"batch_size": 2**24, "eval_batch_size": 2**24, "workers": 1024, "prefetch": 1024, "size": 2**16, "crop": 2**16}
"""More is a slip of the keyboard, which would be noticed when the memory is full."""

_BUFFER = 4096
"""Photographs of 100 KB: what a node's memory takes easily."""

_MOST_UNLABELLED = 10_000
"""Unlabelled samples for each labelled one."""


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class DataSpec:
    """The recipe's ``[data]``.

    Attributes:
        name: ``sklearn:digits``; ``folder:PATH``, with a folder for each class; ``pairs:PATH``, images with a file for each
            one's target; ``photos:PATH``, images alone; ``table:FILE``, a CSV or parquet file that lists them; ``coco:FILE``, images
            with COCO's annotations; ``shards:PATTERN``, tar files of them; ``hf:PATH``, a folder that Hugging Face's ``save_to_disk`` wrote; ``torchvision:NAME`` or ``package.module:callable``, which
            returns a map-style data set of (input, target) or a mapping from split to such data sets.
        args: for ``folder:`` ``levels``, folders down to a class (1); for ``pairs:`` the patterns ``images`` and ``labels``, the ``target`` kind and what describes it; for
            ``photos:`` the pattern ``images``; for ``table:`` the columns; for ``coco:`` the folder ``images`` and the ``target``; else the callable's arguments, and what describes its targets: ``target``,
            ``classes``, ``ignore``, ``values``, ``scale``, ``holes``; and ``fields``, what is what in samples that are dicts or
            longer tuples.
        batch_size: samples in a training batch, of all processes together.
        eval_batch_size: samples in an evaluation batch; None: as many as in a training batch.
        drop_last: leave out an epoch's last training batch when it is smaller than the others. One of a single sample
            is left out always: batch statistics need two.
        sampling: ``balanced``: an epoch has as many samples as there are, and each class equally often, so that those of a
            rare one come several times, alike within an epoch. ``shards``: of ``shards:``, each sample once, shard after
            shard in another order each epoch, so that the disk reads forwards. None: each sample once, in any order.
        buffer: of ``sampling = "shards"``: how many samples are mixed with each other: one comes at most so many places later than
            it lies.
        workers: processes that read and augment; 0: the training process does. The batches are the same.
        prefetch: batches that each worker makes ahead.
        per_class: train on so many samples of each class; None: on all. The validation split stays whole.
        limit: train on so many samples, whatever their targets; None: on all.
        subset_seed: which samples ``per_class`` and ``limit`` take; None: the run's seed. With one seed, fewer are a
            subset of more.
        unlabelled: images without labels that training draws besides, a name as ``name`` has it, such as ``photos:PATH``;
            of a source with labels or splits its training samples, without their labels. Its images are read, shaped,
            augmented and normalised as the labelled ones are.
        unlabelled_args: its arguments, as ``args`` are those of ``name``.
        pool: instead of ``unlabelled``: what ``per_class`` or ``limit`` leaves out of the training samples (``rest``), or all
            training samples (``all``), without their labels; ``none``. A run whose plugins give no loss term draws no
            unlabelled samples at all.
        unlabelled_ratio: how many unlabelled samples a batch has for each labelled one; they come after these, beyond
            ``batch_size``. An epoch is one of the labelled samples.
        terms: the samples that plugins' loss terms are taken over: ``all``, or ``labelled``. The task's loss counts
            labelled ones alone, and so do plugins that need class indices.
        val_fraction: share of each class held out where the source has no validation split; always the same samples.
        split: validation and test in contiguous blocks of the training samples, with a gap: for frames of a film.
        size: height and width that images, and targets with them, are resized to; one number for a square.
        crop: height and width that images, which may differ in size, are cut to after that: at random in training, the
            middle in evaluation; one number for a square.
        channels: 1 or 3: convert images; None: as they are (folders: 1 if they look grey throughout, else 3).
        background: the level of grey, 0 to 255, that transparent pixels of images are laid on; 255 is white.
        normalize: ``data``: by mean and standard deviation of the training split's channels (up to 4,096 samples,
            before ``per_class``); ``imagenet``: by ImageNet's; ``none``: images are 0 to 1.
        transforms: augmentation of training samples: tables such as ``{ use = "RandomCrop", size = 32, padding = 4 }``
            that name classes of torchvision.transforms.v2; they see the image before scaling and normalisation, and move
            masks, depths, images and boxes along. Unless targets are class indices they may change the size: training
            then has another than evaluation.
        batch_transforms: augmentation of training batches on the run's device, likewise by classes of
            torchvision.transforms.v2, ``MixUp`` and ``CutMix`` among them. Each draws once for the whole batch, crops and
            flips with ``each = true`` for each image; images are 0 to 1. Not together with a plugin that remembers the teacher's answers.
        cache: keep what was read in memory: ``auto`` where that takes less than 1 GiB and reading has no randomness of
            its own (a callable's data set may augment: it is kept when it is a TensorDataset or when you say
            ``memory``). Tensors that are in memory are taken as they are, whatever their size, but for ``none``.
        skip_bad: leave out samples that cannot be read, or whose label is missing or does not fit, with a warning that
            counts them; all are read once to find out. ``--skip-bad`` on the command line.
        given: true in the recipe of a run whose data were handed over from Python: `name` is their class, and no recipe
            can make them. A teacher's recipe with it is trained on the data that its student is given.
    """

    name: str
    args: dict[str, Any] = attrs.field(factory=dict)
    batch_size: int = 64
    eval_batch_size: int | None = None
    drop_last: bool = False
    sampling: Literal["balanced", "shards"] | None = None
    buffer: int = _BUFFER
    workers: int = 0
    prefetch: int = 2
    per_class: int | None = None
    limit: int | None = None
    subset_seed: int | None = None
    unlabelled: str | None = None
    unlabelled_args: dict[str, Any] = attrs.field(factory=dict)
    pool: Literal["none", "rest", "all"] = "none"
    unlabelled_ratio: float = 1.0
    terms: Literal["all", "labelled"] = "all"
    val_fraction: float = 0.1
    split: BlockSplit | None = None
    size: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    channels: int | None = None
    background: int = 255
    normalize: Literal["none", "imagenet", "data"] = "data"
    transforms: tuple[dict[str, Any], ...] = ()
    batch_transforms: tuple[dict[str, Any], ...] = ()
    cache: Literal["auto", "memory", "none"] = "auto"
    skip_bad: bool = False
    given: bool | None = None

    def __attrs_post_init__(self) -> None:
        faults = [
            Fault(key, f"must be >= {least}, got {value}")
            for key, least in _LEAST.items()
            for value in [getattr(self, key)]
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < least
        ]
        faults += [
            Fault(key, f"must be at most {most:,}, got {value}")
            for key, most in _MOST.items()
            for value in [getattr(self, key)]
            if value is not None and max(value if isinstance(value, tuple) else (value,)) > most
        ]
        if not 0.0 <= self.val_fraction < 0.5:
            faults.append(Fault("val_fraction", f"must be in [0, 0.5), got {self.val_fraction}"))
        if self.per_class is not None and self.limit is not None:
            faults.append(Fault("limit", "cannot be combined with `per_class`", "set one of the two"))
        faults += self._find_faults_of_unlabelled()
        if self.buffer != _BUFFER and self.sampling != "shards":
            faults.append(Fault("buffer", 'needs `sampling = "shards"`'))
        if not 0 <= self.background <= 255:
            faults.append(Fault("background", f"must be in [0, 255], got {self.background}", "255 is white, 0 black"))
        if self.channels not in (None, 1, 3):
            faults.append(Fault("channels", f"must be 1 or 3, got {self.channels}"))
        raise_faults(faults)

    def _find_faults_of_unlabelled(self) -> list[Fault]:
        faults = []
        if self.pool != "none" and self.unlabelled is not None:
            faults.append(Fault("pool", "cannot be combined with `unlabelled`", "set one of the two"))
        if self.pool == "rest" and self.per_class is None and self.limit is None:
            faults.append(
                Fault("pool", "'rest' needs `per_class` or `limit`, which leave something out", '"all", or `per_class`')
            )
        if not 0.0 < self.unlabelled_ratio <= _MOST_UNLABELLED:
            got = f"must be > 0 and at most {_MOST_UNLABELLED:,}, got {self.unlabelled_ratio}"
            faults.append(Fault("unlabelled_ratio", got))
        if self.unlabelled_args and self.unlabelled is None:
            faults.append(Fault("unlabelled_args", "needs `unlabelled`"))
        if not self.has_unlabelled and (self.unlabelled_ratio != 1.0 or self.terms != "all"):
            key = "terms" if self.terms != "all" else "unlabelled_ratio"
            faults.append(Fault(key, "needs unlabelled samples", '`unlabelled = "photos:PATH"`, or `pool`'))
        return faults

    @property
    def has_unlabelled(self) -> bool:
        """Whether training draws unlabelled samples beside the labelled ones."""
        return self.unlabelled is not None or self.pool != "none"

    @property
    def labelled_alone(self) -> DataSpec:
        """The same without unlabelled samples."""
        if not self.has_unlabelled:
            return self
        return attrs.evolve(self, unlabelled=None, unlabelled_args={}, pool="none", unlabelled_ratio=1.0, terms="all")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """``size`` as a pair."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def crop_height_and_width(self) -> tuple[int, int] | None:
        """``crop`` as a pair."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def placeless(self) -> DataSpec:
        """The same without the place of its files, where their content is hashed: a copy is the same data."""
        scheme, colon, _ = self.name.partition(":")
        if colon and scheme in ("folder", "pairs", "photos", "shards"):
            return attrs.evolve(self, name=f"{scheme}:")
        if colon and scheme == "torchvision":
            return attrs.evolve(self, args={k: v for k, v in self.args.items() if k not in ("root", "download")})
        return self
