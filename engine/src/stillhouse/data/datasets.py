"""The recipe's ``[data]``: what is read, how it is split, and the streams of batches."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import attrs
import ignite.distributed as idist
import numpy as np
from torch import Tensor

from stillhouse.data.augment import build_transforms
from stillhouse.data.catalogue import open_source
from stillhouse.data.imagefolder import ImageFolder
from stillhouse.data.images import Shaping
from stillhouse.data.preparation import fingerprint, normalisation, remembering
from stillhouse.data.samples import Batch, Samples, shaped, stream
from stillhouse.data.sampling import EpochBatches, Ids, Key, OrderedBatches, OwnRandomness, mix
from stillhouse.data.splitting import few_per_class
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults
from stillhouse.strict import strict_fields

__all__ = ["Batch", "Data", "DataInfo", "DataSpec", "load_data"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class DataSpec:
    """The recipe's ``[data]``.

    Attributes:
        name: ``sklearn:digits``, ``folder:PATH``, ``torchvision:NAME`` or ``package.module:callable``, which returns a
            map-style data set of (input, target) or a mapping from split to such data sets.
        args: the callable's arguments.
        batch_size: samples in a training batch, of all processes together.
        eval_batch_size: samples in an evaluation batch; None: as many as in a training batch.
        drop_last: leave out an epoch's last training batch when it is smaller than the others. One of a single sample
            is left out always: batch statistics need two.
        workers: processes that read and augment; 0: the training process does. The batches are the same.
        per_class: train on so many samples of each class; None: on all. The validation split stays whole.
        subset_seed: which samples ``per_class`` takes; None: the run's seed. With one seed, fewer are a subset of more.
        val_fraction: share of each class held out where the source has no validation split; always the same samples.
        size: height and width that images are resized to; one number for a square.
        channels: 1 or 3: convert images; None: as they are (folders: 1 if they look grey throughout, else 3).
        normalize: ``data``: by mean and standard deviation of the training split's channels (up to 4,096 samples,
            before ``per_class``); ``imagenet``: by ImageNet's; ``none``: images are 0 to 1.
        transforms: augmentation of training samples: tables such as ``{ use = "RandomCrop", size = 32, padding = 4 }``
            that name classes of torchvision.transforms.v2; they see the image before scaling and normalisation.
        cache: keep what was read in memory: ``auto`` where that takes less than 1 GiB and reading has no randomness of
            its own (a callable's data set may augment: it is kept when it is a TensorDataset or when you say
            ``memory``).
    """

    name: str
    args: dict[str, Any] = attrs.field(factory=dict)
    batch_size: int = 64
    eval_batch_size: int | None = None
    drop_last: bool = False
    workers: int = 0
    per_class: int | None = None
    subset_seed: int | None = None
    val_fraction: float = 0.1
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    normalize: Literal["none", "imagenet", "data"] = "data"
    transforms: tuple[dict[str, Any], ...] = ()
    cache: Literal["auto", "memory", "none"] = "auto"

    def __attrs_post_init__(self) -> None:
        faults = [
            Fault(key, f"{value} is below {least}", f"at least {least}")
            for key, least in (("batch_size", 1), ("eval_batch_size", 1), ("workers", 0), ("per_class", 1), ("size", 1))
            for value in [getattr(self, key)]
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < least
        ]
        if not 0.0 <= self.val_fraction < 0.5:
            faults.append(Fault("val_fraction", f"{self.val_fraction} is out of range", "0 to below 0.5"))
        if self.channels not in (None, 1, 3):
            faults.append(Fault("channels", f"{self.channels} channels cannot be made", "1 or 3"))
        raise_faults(faults)

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """``size`` as a pair."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@attrs.frozen
class DataInfo:
    """What is known of the data.

    Attributes:
        classes: how many classes.
        class_names: by label.
        input_shape: of one input, for images (C, H, W).
        sizes: samples by split, after ``per_class``.
        fingerprint: changes when the data or what is done to it before the model changes.
        mean: what was subtracted, by channel, of inputs scaled to 0 ... 1; empty: nothing.
        std: what was divided by.
        target: the kind of target the source gives: ``class`` (an index, (B,) int64), ``mask`` (an index each pixel,
            (B, H, W) int64), ``depth`` (metres, (B, 1, H, W) float32, 0 where nothing was measured), ``image``
            ((B, C, H, W) float32, 0 to 1), ``vector`` ((B, D) float32), ``boxes`` (a list of dicts of ``boxes``
            (N, 4) float32 in pixels x1, y1, x2, y2 and ``labels`` (N,) int64) or ``none``. A task's ``sample`` may make
            another of it.
    """

    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    sizes: dict[str, int]
    fingerprint: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target: str = "class"


class Data:
    """Batches to train on and to measure on; made by :func:`load_data`.

    Attributes:
        info: what is known of the data.
    """

    def __init__(self, spec: DataSpec, info: DataInfo, samples: Samples, splits: dict[str, Ids], pin: bool) -> None:
        self.info = info
        self._spec, self._samples, self._splits, self._pin = spec, samples, splits, pin
        self._plain = attrs.evolve(samples, transforms=None)
        self._streams: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()

    @property
    def splits(self) -> tuple[str, ...]:
        """``train`` and those that can be measured on."""
        return tuple(self._splits)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch, at least 1."""
        return self._training_keys(0).steps_per_epoch

    def _training_keys(self, start_step: int) -> EpochBatches:
        return EpochBatches(
            ids=self._splits["train"],
            batch_size=self._spec.batch_size,
            drop_last=self._spec.drop_last,
            seed=self._samples.seed,
            start_step=start_step,
            rank=idist.get_rank(),
            world=idist.get_world_size(),
        )

    def example(self, n: int = 2) -> Batch:
        """``n`` training samples, evenly spaced over the split, without augmentation; repeated when there are fewer."""
        train = self._splits["train"]
        rows = np.linspace(0, len(train) - 1, min(n, len(train))).astype(np.int64)
        return self._plain.batch(Key(0, train[np.resize(rows, n)]))

    def training(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches without end, from global step ``start_step`` on, as if those before had been taken.

        Raises:
            StillhouseError: on the way, when a sample cannot be read or augmented.
        """
        return self._stream(self._samples, self._training_keys(start_step))

    def evaluation(self, split: str) -> Iterable[Batch]:
        """Every sample of ``split`` once, in order, without augmentation; sized, and can be gone through again.

        Raises:
            StillhouseError: there is no such split.
        """
        if split not in self._splits:
            raise StillhouseError(f"the data has no split {split!r}", hint=did_you_mean(split, self._splits))
        size = self._spec.eval_batch_size or self._spec.batch_size
        rank, world = idist.get_rank(), idist.get_world_size()
        share = self._splits[split][rank::world]
        return _Evaluation(self, OrderedBatches(ids=share, batch_size=max(1, size // world)))

    def _stream(self, samples: Samples, keys: Iterable[Key]) -> Iterator[Batch]:
        made = stream(samples, keys, self._spec.workers, self._pin)
        self._streams.add(made)
        return made

    def close(self) -> None:
        """End every stream and its workers."""
        for made in list(self._streams):
            made.close()


@attrs.frozen(eq=False)
class _Evaluation:
    data: Data
    keys: OrderedBatches

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        return self.data._stream(self.data._plain, self.keys)


class SampleMaker(Protocol):
    """What :func:`load_data` asks of a task: see :class:`stillhouse.tasks.Task`."""

    takes: ClassVar[tuple[str, ...]]

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """One sample's input and target."""

    def collate(self, targets: list[Any]) -> Any:
        """A batch's targets."""


def load_data(
    spec: DataSpec, task: SampleMaker | None = None, *, seed: int, base: Path | None = None, pin: bool = False
) -> Data:
    """Find, split and, where small, read the data of ``spec``.

    Args:
        spec: the recipe's ``[data]``.
        task: what makes the samples' inputs and targets of what the data gives; None: class indices as they are.
        seed: the run's seed: the order of samples and their augmentation. Splits don't depend on it.
        base: the recipe's folder, which relative paths start from.
        pin: put batches into page-locked memory, for copies to CUDA.

    Raises:
        StillhouseError: what is wrong with the data, where, and what would be right.
    """
    faults: list[Fault] = []
    source, transforms = None, None
    try:
        transforms = build_transforms(spec.transforms)
    except StillhouseError as error:
        faults += error.faults
    try:
        source = open_source(spec.name, spec.args, spec.val_fraction, base)
    except StillhouseError as error:
        if not faults:
            raise
        faults += error.faults
    raise_faults(faults)
    assert source is not None  # or there was a fault
    splits = dict(source.splits)
    if spec.per_class is not None:
        subset_seed = seed if spec.subset_seed is None else spec.subset_seed
        splits["train"] = few_per_class(splits["train"], source.labels, source.class_names, spec.per_class, subset_seed)
    channels = source.channels() if spec.channels is None and isinstance(source, ImageFolder) else spec.channels
    shaping = Shaping(channels=channels, size=spec.height_and_width)
    with OwnRandomness() as randomness:
        first = int(source.splits["train"][0])
        randomness.seed(mix(first))
        x = shaped(source, shaping, first)
    samples = Samples(source=source, shaping=shaping, shape=tuple(x.shape), dtype=x.dtype, seed=seed)
    samples = remembering(samples, splits, spec.cache, spec.workers)
    mean, std = normalisation(spec.normalize, samples) or (None, None)
    samples = attrs.evolve(samples, mean=mean, std=std, transforms=transforms)
    samples.batch(Key(0, splits["train"][:1]))  # shows whether the transforms suit the samples
    choices = {key: getattr(spec, key) for key in ("args", "normalize", "transforms")}
    if not isinstance(source, ImageFolder):  # a folder is known by its content, wherever it lies
        choices["name"] = spec.name
    info = DataInfo(
        classes=len(source.class_names),
        class_names=source.class_names,
        input_shape=samples.shape,
        sizes={name: len(ids) for name, ids in splits.items()},
        fingerprint=fingerprint({**choices, "shaping": attrs.asdict(shaping)}, samples, splits),
        mean=() if mean is None else tuple(mean.flatten().tolist()),
        std=() if std is None else tuple(std.flatten().tolist()),
    )
    return Data(spec, info, samples, splits, pin)
