"""One reading of every sample before the first batch: to keep it in memory, and to find the bad ones."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.data.held import Memory, join_parts
from stillhouse.data.sample_errors import MisfitError, find_form, is_finite, suggest_skipping
from stillhouse.data.sampler import Ids, Key, OrderedBatches
from stillhouse.data.samples import Samples
from stillhouse.data.sources import Part
from stillhouse.data.streams import map_in_workers
from stillhouse.data.targets import stack
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning
from stillhouse.seeds import OwnRandomness, mix

__all__ = [
    "collect",
    "fits_in_memory",
    "keep_in_memory",
    "read_once",
    "refuse_bad_samples",
    "take_tensors",
    "warn_of_left_out",
]

_MEMORY_LIMIT = 1 << 30
_CHUNK = 256
_NAMED = 100
"""Of samples that cannot be used: whoever mends them wants to know them all."""
_SHOWN = 4
"""Of samples that are left out."""

Errors = dict[int, StillhouseError]


def fits_in_memory(
    samples: Samples, n: int, cache: Literal["auto", "memory", "none"], first: tuple[Tensor, Any]
) -> bool:
    """Whether ``n`` samples as large as ``first`` (input and target) are kept; see :class:`stillhouse.data.DataSpec`."""
    size = n * sum(t.numel() * t.itemsize for t in first if isinstance(t, Tensor))
    return cache == "memory" or (cache == "auto" and size <= _MEMORY_LIMIT and samples.source.pure)


class _Chunk(NamedTuple):
    inputs: Any
    targets: Any
    ids: list[int]
    errors: Errors


@attrs.frozen
class _Reader:
    samples: Samples
    keep: bool

    def __call__(self, key: Key) -> _Chunk:
        pairs: list[tuple[Tensor, Any]] = []
        ids: list[int] = []
        errors: Errors = {}
        with OwnRandomness() as randomness:
            for i in map(int, key.ids):
                randomness.seed(mix(self.samples.seed, key.epoch, i))
                try:
                    pair = self.samples.read_pair(i)
                except StillhouseError as error:
                    errors[i] = error
                    continue
                if self.keep:
                    pairs.append(pair)
                    ids.append(i)
        if not pairs:
            return _Chunk(None, None, [], errors)
        with_target = self.samples.source.target not in ("class", "none")
        targets = stack([target for _, target in pairs]) if with_target else None
        return _Chunk(stack([x for x, _ in pairs]), targets, ids, errors)


class _Rows:
    """A buffer of ``n`` values: one tensor while they have one shape, else a list."""

    def __init__(self, n: int) -> None:
        self._n, self._filled = n, 0
        self._rows: Any = None

    def add(self, values: Any) -> None:
        if self._rows is None:
            whole = isinstance(values, Tensor)
            self._rows = torch.empty(self._n, *values.shape[1:], dtype=values.dtype) if whole else []
        if isinstance(self._rows, Tensor):
            if isinstance(values, Tensor) and values.shape[1:] == self._rows.shape[1:]:
                self._rows[self._filled : self._filled + len(values)] = values
                self._filled += len(values)
                return
            self._rows = list(self._rows[: self._filled])
        self._rows += list(values)

    def collect(self) -> Any:
        return self._rows[: self._filled] if isinstance(self._rows, Tensor) else self._rows


def collect(
    samples: Samples, splits: Mapping[str, Ids], spec: DataSpec, keep: bool, check: bool
) -> tuple[Memory | None, Errors]:
    """Take the tensors that the source holds, or read every sample where they are to be kept or checked.

    Returns:
        As :func:`read_once`; nothing and no errors where nothing is taken or read.
    """
    taken = None if spec.cache == "none" else take_tensors(samples, splits)
    if taken is not None:
        return taken
    return read_once(samples, splits, spec.workers, keep) if keep or check else (None, {})


def take_tensors(samples: Samples, splits: Mapping[str, Ids]) -> tuple[Memory, Errors] | None:
    """Take the tensors that the source holds as the memory: no sample is read, and nothing is copied.

    Args:
        samples: the samples.
        splits: the ids in use.

    Returns:
        As :func:`read_once`, with the error of each sample of ``splits`` that cannot be used; None where samples must be
        read, because there are no such tensors or not all of them have the samples' form.
    """
    parts = samples.source.hold() if samples.source.pure else None
    if parts is None or not all(_suits(samples, part) for part in parts):
        return None
    memory = join_parts(parts)
    labels = samples.source.labels
    classes = len(samples.source.class_names) if samples.source.target == "class" else 1
    amiss = (labels < 0) | (labels >= classes)
    for part, start in zip(parts, memory.starts.tolist(), strict=True):
        for values in (part.inputs if samples.maker is None else None, part.targets):
            if isinstance(values, Tensor) and not is_finite(values):
                bad = (~values.isfinite()).flatten(1).any(1).numpy()
                amiss[start : start + len(bad)] |= bad if part.rows is None else bad[part.rows]
    errors: Errors = {}
    used = np.concatenate(list(splits.values()))
    for i in np.sort(used[amiss[used]]).tolist():
        try:
            samples.read_pair(i)
        except StillhouseError as error:
            errors[i] = error
    memory.row_of[list(errors)] = -1
    return memory, errors


def _suits(samples: Samples, part: Part) -> bool:
    """Whether a part's inputs need no change to be the samples', and its targets are as many numbers as the others'."""
    if not isinstance(part.inputs, Tensor) or not len(part.inputs):
        return False
    first = part.inputs[0]
    same = find_form(first, samples.shape) == (samples.shape, samples.dtype) and samples.shaping.keeps(
        tuple(first.shape)
    )
    large = -1 not in samples.shape or all(n >= m for n, m in zip(first.shape[1:], samples.read_shape[1:], strict=True))
    length = samples.source.vector_length
    return same and large and (part.targets is None or length in (None, len(part.targets[0])))


def read_once(samples: Samples, splits: Mapping[str, Ids], workers: int, keep: bool) -> tuple[Memory | None, Errors]:
    """Read every sample of ``splits``.

    Args:
        samples: the samples.
        splits: the ids in use.
        workers: processes that decode, where there are enough samples to start them for.
        keep: whether to keep the samples.

    Returns:
        The samples, where they are kept, and the error of each one that cannot be used. Where the first sample is
        the odd one in shape or type, the errors are of those that differ from most.
    """
    if not samples.source.pure:  # what is drawn is to follow from the run's seed
        samples = attrs.evolve(samples, seen=None)
    ids = np.unique(np.concatenate(list(splits.values())))
    memory, errors = _read(samples, ids, workers, keep)
    forms = Counter(error.form for error in errors.values() if isinstance(error, MisfitError) and error.form)
    form, times = forms.most_common(1)[0] if forms else (None, 0)
    if form is None or times <= len(ids) - len(errors):
        return memory, errors
    of_most = [i for i, error in errors.items() if isinstance(error, MisfitError) and error.form == form]
    most = attrs.evolve(samples, shape=form[0], dtype=form[1], first=min(of_most), memory=None)
    rest = np.setdiff1d([*ids, samples.first], of_most)
    return memory, _read(most, rest, workers, keep=False)[1] or errors


def _read(samples: Samples, ids: Ids, workers: int, keep: bool) -> tuple[Memory | None, Errors]:
    inputs, targets = _Rows(len(ids)), _Rows(len(ids))
    held: list[int] = []
    errors: Errors = {}
    chunks = OrderedBatches(ids=ids, batch_size=_CHUNK // 8 if -1 in samples.shape else _CHUNK)
    for chunk in map_in_workers(_Reader(samples, keep), chunks, workers if len(ids) > 8 * _CHUNK else 0):
        errors |= chunk.errors
        if chunk.ids:
            inputs.add(chunk.inputs)
            held += chunk.ids
            if chunk.targets is not None:
                targets.add(chunk.targets)
    if not held:
        return None, errors
    row_of = np.full(len(samples.source.labels), -1, dtype=np.int64)
    row_of[held] = np.arange(len(held))
    return Memory((Part(inputs.collect(), targets.collect()),), np.zeros(1, dtype=np.int64), row_of), errors


def refuse_bad_samples(errors: Errors, of: int, skip_bad: bool) -> None:
    """Raise for samples that cannot be used, named and counted, with a hint how to go on.

    Args:
        errors: by id.
        of: how many samples were read.
        skip_bad: let unreadable samples pass, which are left out; those that differ in shape are refused all the same.

    Raises:
        StillhouseError: there is such a sample.
    """
    found = [error for error in errors.values() if not (skip_bad and not isinstance(error, MisfitError))]
    if not found:
        return
    shown = found[:_NAMED]
    bad = [k for k, error in enumerate(shown) if not isinstance(error, MisfitError)]
    if bad:
        shown[bad[-1]] = suggest_skipping(shown[bad[-1]])
    faults = [fault for error in shown for fault in error.faults]
    if len(found) > _NAMED:
        faults.append(Fault("data", f"... {len(found)} of {of} samples cannot be used"))
    raise StillhouseError(faults=faults)


def warn_of_left_out(errors: Errors, of: int) -> None:
    """Warn once of all samples that are left out."""
    first = [error.faults[0] for error in list(errors.values())[:_SHOWN]]
    some = "; ".join(f"{fault.where}: {fault.what}" for fault in first)
    more = "; ..." if len(errors) > _SHOWN else ""
    warnings.warn(f"{len(errors)} of {of} samples are left out: {some}{more}", StillhouseWarning, stacklevel=2)


def keep_in_memory(
    samples: Samples, splits: Mapping[str, Ids], cache: Literal["auto", "memory", "none"], workers: int
) -> Samples:
    """Return ``samples`` with every sample of ``splits`` in memory; unchanged where ``cache`` forbids it.

    Raises:
        StillhouseError: samples that cannot be read.
    """
    n = len(np.unique(np.concatenate(list(splits.values()))))
    with OwnRandomness() as randomness:
        randomness.seed(mix(samples.first))
        first = samples.read_pair(samples.first)
    if not fits_in_memory(samples, n, cache, first):
        return samples
    memory, errors = read_once(samples, splits, workers, keep=True)
    refuse_bad_samples(errors, n, skip_bad=False)
    return attrs.evolve(samples, memory=memory)
