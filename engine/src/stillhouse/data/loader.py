"""The data loader: a recipe's ``[data]`` is found, checked, split and, where small, read into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import SampleMaker
from stillhouse.data.base import Data
from stillhouse.data.batches import SampledData
from stillhouse.data.catalogue import open_sources
from stillhouse.data.given import Given
from stillhouse.data.given_loaders import LoaderData
from stillhouse.data.held import Seen
from stillhouse.data.inspection import inspect
from stillhouse.data.labels import count_labels
from stillhouse.data.makers import check_taken, choose_maker
from stillhouse.data.memory import collect, fits_in_memory, refuse_bad_samples, warn_of_left_out
from stillhouse.data.reading import read_shaped
from stillhouse.data.sampler import Ids, Key
from stillhouse.data.samples import Samples
from stillhouse.data.shaping import Shaping
from stillhouse.data.shared import KEPT, keep_memory, make_data_key, make_source_key, recall_memory
from stillhouse.data.sources import Source
from stillhouse.data.splits import choose, choose_per_class
from stillhouse.data.statistics import fingerprint, measure_normalisation
from stillhouse.data.transform_chain import DRAWS, TransformChain
from stillhouse.data.unlabelled import UNLABELLED, choose_pool
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.memo import remember
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["load_data"]

_TRIED = 64


def load_data(
    spec: DataSpec,
    task: SampleMaker | None = None,
    *,
    seed: int,
    base: Path | None = None,
    pin: bool = False,
    given: Given | None = None,
) -> Data:
    """Find, split and, where small, read the data of ``spec``.

    Args:
        spec: the recipe's ``[data]``.
        task: makes inputs and targets of the data's samples; None: class indices as they are.
        seed: the run's seed: the order of samples and their augmentation. Splits don't depend on it.
        base: the recipe's folder, which relative paths start from.
        pin: put batches into page-locked memory, for copies to CUDA.
        given: the data that Python has handed over, described in ``spec``.

    Raises:
        StillhouseError: data that cannot be found, read, split or transformed.
    """
    if given is None and spec.given:
        hint = "hand them over again, from Python: train, evaluate and export take data=..."
        raise StillhouseError(f"these data, {spec.name}, were given from Python", where="data.name", hint=hint)
    if given is not None and given.loaders:
        return LoaderData(spec, given, task, seed=seed, pin=pin)
    info, samples, splits, notes = remember(
        lambda: make_data_key(spec, task, seed, base, given), lambda: _load(spec, task, seed, base, given), among=KEPT
    )
    return SampledData(spec, info, attrs.evolve(samples, seed=seed), dict(splits), pin, notes)


def _load(
    spec: DataSpec, task: SampleMaker | None, seed: int, base: Path | None, given: Given | None
) -> tuple[DataInfo, Samples, dict[str, Ids], tuple[str, ...]]:
    source, (transforms, for_evaluation) = remember(
        lambda: make_source_key(spec, base, given), lambda: _open(spec, base, given), among=KEPT
    )
    check_taken(task, source.target)
    maker = choose_maker(task, source.target)
    shaping = Shaping(
        channels=source.channels() if spec.channels is None else spec.channels, size=spec.height_and_width
    )
    first, pair = _find_readable(source, shaping)
    samples = Samples(
        source=source,
        shaping=shaping,
        shape=tuple(pair[0].shape) if for_evaluation is None else (pair[0].shape[0], -1, -1),
        dtype=pair[0].dtype,
        first=first,
        seed=seed,
        read_shape=_crop_shape(spec, tuple(pair[0].shape)),
        seen=Seen().add(first, *pair),
        maker=maker,
        for_evaluation=for_evaluation,
    )
    samples, splits = _examine(samples, spec, seed, pair)
    if source.weights is not None and not source.weights[splits["train"]].any():
        raise StillhouseError("every training sample has the weight 0, and nothing would be learnt", where="data")
    notes = inspect(samples, splits, spec.eval_batch_size or spec.batch_size)
    made = samples.read_shape if maker is None else _measure_shape(samples.plain, splits["train"])
    mean, std = measure_normalisation(spec.normalize, samples, made) or (None, None)
    samples = attrs.evolve(samples, mean=mean, std=std, transforms=transforms)
    trained = _measure_shape(samples, splits["train"])  # shows whether the transforms suit the samples
    if len(trained) != len(made) or trained[0] != made[0]:
        raise StillhouseError(
            f"transforms must keep the number of channels: training inputs are {trained}, evaluation's {made}",
            where="data.transforms",
        )
    choices = {key: getattr(spec.placeless, key) for key in ("args", "normalize", "transforms")}
    choices |= {
        key: getattr(spec, key)
        for key, default in (("crop", None), ("background", 255))
        if getattr(spec, key) != default
    }
    if source.stamp is None:  # a folder is known by its content, wherever it lies
        choices["name"] = spec.name
    if spec.cache == "memory" and not source.pure:  # what it reads at random is read once
        choices["cache"] = spec.cache
    if maker is None and transforms is not None:
        choices["draws"] = DRAWS
    if maker is not None:
        choices["task"] = repr(maker) if attrs.has(type(maker)) else type(maker).__qualname__
    described = source.spec
    info = DataInfo(
        classes=len(source.class_names),
        class_names=source.class_names,
        input_shape=trained,
        sizes={name: len(ids) for name, ids in splits.items()},
        fingerprint=fingerprint({**choices, "shaping": attrs.asdict(shaping)}, samples, splits),
        mean=() if mean is None else tuple(mean.flatten().tolist()),
        std=() if std is None else tuple(std.flatten().tolist()),
        target=source.target,
        class_counts=count_labels(source.labels[splits["train"]], len(source.class_names))
        if source.target == "class"
        else (),
        target_shape=tuple(pair[1].shape) if isinstance(pair[1], Tensor) else (),
        ignore=None if described is None else described.ignored,
        eval_shape=made,
    )
    return info, attrs.evolve(samples, seen=None), splits, notes


def _open(
    spec: DataSpec, base: Path | None, given: Given | None
) -> tuple[Source, tuple[TransformChain | None, TransformChain | None]]:
    """Open the source, split as the recipe says, and build both transforms (training, evaluation); faults of all at once."""
    faults: list[Fault] = []
    source = None
    try:
        _build_transforms(spec)
    except StillhouseError as error:
        faults += error.faults
    try:
        source = open_sources(spec, base, given)
    except StillhouseError as error:
        if not faults:
            raise
        faults += error.faults
    raise_faults(faults)
    assert source is not None  # or there was a fault
    return source, _build_transforms(spec, source)


def _build_transforms(
    spec: DataSpec, source: Source | None = None
) -> tuple[TransformChain | None, TransformChain | None]:
    """Build the transforms of training and of evaluation; without a source, to see that they can be built."""
    size = spec.crop_height_and_width
    if not spec.transforms and size is None:
        return None, None  # without importing torchvision, which takes a while
    from stillhouse.data.augmentation import build_crops, build_transforms, chain

    kind = "class" if source is None else source.target
    ignore = None if source is None or source.spec is None else source.spec.ignored
    own = build_transforms(spec.transforms, kind=kind, ignore=ignore)
    if size is None:
        return own, None
    at_random, middle = build_crops(size)
    return chain(at_random, own), middle


def _find_readable(source: Source, shaping: Shaping) -> tuple[int, tuple[Tensor, Any]]:
    """Find the first readable training sample: all others must have its shape.

    Raises:
        StillhouseError: none of the first few is readable.
    """
    first_error = None
    with OwnRandomness() as randomness:
        for i in map(int, source.splits["train"][:_TRIED]):
            randomness.seed(mix(i))
            try:
                return i, read_shaped(source, shaping, i)
            except StillhouseError as error:
                first_error = first_error or error
    assert first_error is not None  # a training split is never empty
    tried = min(_TRIED, len(source.splits["train"]))
    more = [Fault("data", f"none of the first {tried} training samples can be used")] if tried > 1 else []
    raise StillhouseError(faults=[*first_error.faults, *more])


def _examine(samples: Samples, spec: DataSpec, seed: int, pair: tuple[Tensor, Any]) -> tuple[Samples, dict[str, Ids]]:
    """Read samples that are kept in memory and select the splits; with ``skip_bad`` bad samples leave the source first.

    So a subset of few labels does not shrink by them, and what goes over the source later does not meet them.
    """
    source = samples.source
    if spec.skip_bad:
        total = sum(map(len, source.splits.values()))
        keep = spec.per_class is None and spec.limit is None and fits_in_memory(samples, total, spec.cache, pair)
        memory, errors = collect(recall_memory(samples), source.splits, spec, keep, check=True)
        refuse_bad_samples(errors, total, skip_bad=True)
        if errors:
            _leave_out(source, errors)
            warn_of_left_out(errors, total)
        samples = attrs.evolve(samples, memory=memory)
    splits = _select(source, spec, seed)
    n = sum(map(len, splits.values()))
    if samples.memory is None:
        keep = fits_in_memory(samples, n, spec.cache, pair)
        memory, errors = collect(recall_memory(samples), splits, spec, keep, check=False)
        refuse_bad_samples(errors, n, skip_bad=False)
        samples = attrs.evolve(samples, memory=memory)
    keep_memory(samples)
    return samples, splits


def _leave_out(source: Source, errors: dict[int, StillhouseError]) -> None:
    bad = list(errors)
    source.splits = {name: ids[~np.isin(ids, bad)] for name, ids in source.splits.items()}
    empty = [name for name, ids in source.splits.items() if len(ids) == 0]
    if empty:
        raise StillhouseError(
            faults=[Fault("data.skip_bad", f"no sample of the split {name!r} can be used") for name in empty]
            + [fault for error in list(errors.values())[:4] for fault in error.faults],
        )


def _select(source: Source, spec: DataSpec, seed: int) -> dict[str, Ids]:
    splits = dict(source.splits)
    subset_seed = seed if spec.subset_seed is None else spec.subset_seed
    if spec.per_class is not None:
        if source.target != "class":
            raise StillhouseError(
                f"needs targets of kind 'class', got {source.target!r}", where="data.per_class", hint="use `limit`"
            )
        splits["train"] = choose_per_class(
            splits["train"], source.labels, source.class_names, spec.per_class, subset_seed
        )
    elif spec.limit is not None:
        splits["train"] = choose(splits["train"], spec.limit, subset_seed)
    if spec.has_unlabelled:
        splits[UNLABELLED] = choose_pool(spec, source, splits)
    return splits


def _crop_shape(spec: DataSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    size = spec.crop_height_and_width
    if size is None:
        return shape
    if len(shape) != 3:
        raise StillhouseError(f"needs images (C, H, W), got inputs of shape {shape}", where="data.crop")
    return (shape[0], *size)


def _measure_shape(samples: Samples, train: Ids) -> tuple[int, ...]:
    return tuple(samples.batch(Key(0, train[:1])).input.shape[1:])
