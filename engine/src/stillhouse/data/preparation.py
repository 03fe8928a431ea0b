"""What is done with samples once, before the first batch: keep them in memory, measure them, take their fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from stillhouse.data.samples import Memory, Samples, from_workers
from stillhouse.data.sampling import Ids, OrderedBatches, OwnRandomness, mix
from stillhouse.errors import StillhouseError

__all__ = ["fingerprint", "normalisation", "remembering"]

_MEMORY_LIMIT = 1 << 30
_CHUNK = 256
_MEASURED = 4096
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def remembering(
    samples: Samples, splits: Mapping[str, Ids], cache: Literal["auto", "memory", "none"], workers: int
) -> Samples:
    """``samples`` with every sample of ``splits`` in memory; as they are when ``cache`` says so.

    Args:
        samples: the samples.
        splits: the ids in use.
        cache: see :class:`stillhouse.data.DataSpec`.
        workers: processes that decode, where that is worth starting them.

    Raises:
        StillhouseError: a sample cannot be read.
    """
    ids = np.unique(np.concatenate(list(splits.values())))
    size = len(ids) * math.prod(samples.shape) * samples.dtype.itemsize
    if cache == "none" or (cache == "auto" and (size > _MEMORY_LIMIT or not samples.source.pure)):
        return samples
    rows = torch.empty(len(ids), *samples.shape, dtype=samples.dtype)
    row_of = np.full(len(samples.source.labels), -1, dtype=np.int64)
    chunks = OrderedBatches(ids=ids, batch_size=_CHUNK)
    start = 0
    for chunk in from_workers(samples.raw, chunks, workers if len(ids) > 8 * _CHUNK else 0):
        rows[start : start + len(chunk)] = chunk
        start += len(chunk)
    row_of[ids] = np.arange(len(ids))
    return attrs.evolve(samples, memory=Memory(rows, row_of))


def normalisation(kind: Literal["none", "imagenet", "data"], samples: Samples) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation by channel (C, 1, 1), float32, of inputs scaled to 0 ... 1; for vectors by component.

    ``data`` measures the source's whole training split, or 4,096 samples of it evenly spaced, so that runs on few
    labels see inputs on the same scale. A constant channel is divided by 1.

    Raises:
        StillhouseError: ``imagenet`` on inputs without three channels.
    """
    shape = (samples.shape[0], *[1] * (len(samples.shape) - 1))
    if kind == "none":
        return None
    if kind == "imagenet":
        if len(samples.shape) != 3 or samples.shape[0] != 3:
            raise StillhouseError(
                f"ImageNet's statistics are of 3 channels, and inputs have shape {samples.shape}",
                where="data.normalize",
                hint="set channels = 3, or normalize = 'data'",
            )
        mean, std = (torch.tensor(values).reshape(shape) for values in _IMAGENET)
        return mean, std
    train = samples.source.splits["train"]
    some = train[np.linspace(0, len(train) - 1, min(_MEASURED, len(train))).astype(np.int64)]
    # In float64 the sums over uint8 are exact, and so don't depend on their order or on threads.
    first, second = np.zeros(shape[0]), np.zeros(shape[0])
    with OwnRandomness() as randomness:
        for i in some:
            randomness.seed(mix(int(i)))
            x = samples.input_of(int(i)).numpy().astype(np.float64).reshape(shape[0], -1)
            first += x.sum(1)
            second += np.square(x).sum(1)
    count = len(some) * math.prod(samples.shape[1:])
    average = first / count
    deviation = np.sqrt(np.maximum(second / count - np.square(average), 0))
    scale = 255.0 if samples.dtype == torch.uint8 else 1.0
    deviation[deviation <= 1e-6 * np.maximum(1.0, np.abs(average))] = scale
    return tuple(torch.from_numpy(v / scale).float().reshape(shape) for v in (average, deviation))  # type: ignore[return-value]  # two, as annotated


def fingerprint(choices: Mapping[str, Any], samples: Samples, splits: Mapping[str, Ids]) -> str:
    """A hash of the content: labels, splits, normalisation, and the files' names, sizes and times or 32 samples' bytes.

    Args:
        choices: what was chosen about reading, as plain data.
        samples: the samples, with their normalisation.
        splits: the ids in use.
    """
    source = samples.source
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True, default=repr).encode())
    digest.update("\0".join(source.class_names).encode(errors="surrogateescape"))
    digest.update(source.labels.tobytes())
    for name, ids in splits.items():
        digest.update(f"\0{name}\0".encode())
        digest.update(ids.tobytes())
    for tensor in (samples.mean, samples.std):
        if tensor is not None:
            digest.update(tensor.numpy().tobytes())
    if source.stamp is not None:
        digest.update(source.stamp)
        return digest.hexdigest()
    with OwnRandomness() as randomness:
        for i in np.linspace(0, len(source.labels) - 1, min(32, len(source.labels))).astype(np.int64):
            randomness.seed(mix(int(i)))
            digest.update(samples.input_of(int(i)).numpy().tobytes())
    return digest.hexdigest()
