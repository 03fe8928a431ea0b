"""Statistics of samples before the first batch: mean and deviation for normalisation, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stillhouse.config.home import shorten_home
from stillhouse.data.memory import Errors, refuse_bad_samples
from stillhouse.data.sampler import Ids, Key
from stillhouse.data.samples import Samples
from stillhouse.errors import StillhouseError
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["fingerprint", "measure_normalisation"]

_MEASURED = 4096
_AT_ONCE = 16
_HASHED = 1024
_HASHED_BYTES = 32 << 20
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def measure_normalisation(
    kind: Literal["none", "imagenet", "data"], samples: Samples, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor] | None:
    """Measure mean and standard deviation by channel (C, 1, 1), float32, of inputs in 0 ... 1; for vectors by component.

    ``data`` measures the source's whole training split, or 4,096 samples of it evenly spaced, so that runs on few
    labels see inputs on the same scale. A constant channel is divided by 1. The inputs are those that a task makes.

    Args:
        kind: see :class:`stillhouse.data.DataSpec`.
        samples: the samples, not normalised yet.
        shape: of an input.

    Raises:
        StillhouseError: ``imagenet`` on inputs without three channels; samples that cannot be used, all of them named.
    """
    like = (shape[0], *[1] * (len(shape) - 1))
    if kind == "none":
        return None
    if kind == "imagenet":
        if len(shape) != 3 or shape[0] != 3:
            raise StillhouseError(
                f"'imagenet' needs inputs of 3 channels, got shape {shape}",
                where="data.normalize",
                hint="set channels = 3, or normalize = 'data'",
            )
        mean, std = (torch.tensor(values).reshape(like) for values in _IMAGENET)
        return mean, std
    train = samples.source.splits["train"]
    some = train[np.linspace(0, len(train) - 1, min(_MEASURED, len(train))).astype(np.int64)]
    # In float64 the sums over uint8 are exact, and so don't depend on their order or on threads.
    first, second, count = np.zeros(shape[0]), np.zeros(shape[0]), 0
    errors: Errors = {}
    for x in _make_inputs(samples, some, errors):
        values = x.numpy().astype(np.float64).reshape(shape[0], -1)
        first += values.sum(1)
        second += np.square(values).sum(1)
        count += values.shape[1]
    refuse_bad_samples(errors, len(some), skip_bad=False)
    average = first / count
    deviation = np.sqrt(np.maximum(second / count - np.square(average), 0))
    scale = 255.0 if samples.dtype == torch.uint8 and samples.maker is None else 1.0
    deviation[deviation <= 1e-6 * np.maximum(1.0, np.abs(average))] = scale
    return tuple(torch.from_numpy(v / scale).float().reshape(like) for v in (average, deviation))  # type: ignore[return-value]  # two, as annotated


def _make_inputs(samples: Samples, ids: Ids, errors: Errors) -> Iterator[Tensor]:
    """Yield the inputs of ``ids`` as the task makes them, without transforms; ``errors`` gets those that cannot be made."""
    plain, made = samples.plain, samples.maker is not None
    with OwnRandomness() as randomness:
        for some in np.split(ids, range(_AT_ONCE, len(ids), _AT_ONCE)):
            if made:
                with suppress(StillhouseError):  # one by one they are told apart
                    inputs, _ = plain.make_pairs(Key(0, some))
                    yield from inputs
                    continue
            for i in map(int, some):
                randomness.seed(mix(i))
                try:
                    x = plain.make_pairs(Key(0, np.array([i])))[0][0] if made else samples.read_input(i)
                except StillhouseError as error:
                    errors[i] = error
                    continue
                yield x


def fingerprint(choices: Mapping[str, Any], samples: Samples, splits: Mapping[str, Ids]) -> str:
    """Hash the content: labels, splits, normalisation, and the source's stamp with the files in use, or samples' values.

    Neither times nor places count: a copy is the same data. Of samples that are no files, as many as make 32 MiB are
    hashed, 32 to 1,024, evenly spaced.

    Args:
        choices: the recipe's keys that change how samples are read, as plain data.
        samples: the samples, with their normalisation.
        splits: the ids in use.
    """
    source = samples.source
    digest = hashlib.sha256(json.dumps(shorten_home(choices), sort_keys=True, default=repr).encode())
    digest.update("\0".join(source.class_names).encode(errors="surrogateescape"))
    digest.update(source.labels.tobytes())
    if source.weights is not None:
        digest.update(source.weights.tobytes())
    for name, ids in splits.items():
        digest.update(f"\0{name}\0".encode())
        digest.update(ids.tobytes())
    for tensor in (samples.mean, samples.std):
        if tensor is not None:
            digest.update(tensor.numpy().tobytes())
    if source.stamp is not None:
        digest.update(source.stamp)
        digest.update(source.hash_contents(np.unique(np.concatenate(list(splits.values())))))
        return digest.hexdigest()
    with OwnRandomness() as randomness:
        for i in _choose_hashed(samples):
            randomness.seed(mix(i))
            x, target = samples.read(i)
            digest.update(x.numpy().tobytes())
            for part in target.values() if isinstance(target, Mapping) else [target]:
                if isinstance(part, Tensor):
                    digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def _choose_hashed(samples: Samples) -> list[int]:
    ids = np.sort(np.concatenate(list(samples.source.splits.values())))
    with OwnRandomness() as randomness:
        randomness.seed(mix(samples.first))
        pair = samples.read(samples.first)
    size = sum(part.numel() * part.itemsize for part in pair if isinstance(part, Tensor))
    n = min(len(ids), _HASHED, max(32, _HASHED_BYTES // max(1, size)))
    chosen: list[int] = ids[np.linspace(0, len(ids) - 1, n).astype(np.int64)].tolist()
    return chosen
