"""Unlabelled images beside the labelled ones: a second stream, which follows from the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.contract.batch import Batch
from stillhouse.contract.protocols import Batches

__all__ = ["PoolStream"]


class PoolStream:
    """Batches of the whole training split, without their labels.

    It has no state that a checkpoint would have to keep: asked for a step that is not the next one, it starts there.

    Args:
        data: the run's.
    """

    def __init__(self, data: Batches) -> None:
        self._data = data
        self.ids = data.passes.ids("pool")
        self._rotation = data.passes.rotation(self.ids)
        self._stream: Iterator[Batch] | None = None
        self._batch: Batch | None = None
        self._step = -1
        self._used = 0

    def epoch(self, iteration: int) -> int:
        """Return how many times every image of the pool was used before step ``iteration``."""
        return iteration // self._rotation

    def fetch(self, iteration: int) -> None:
        """Get the batch of step ``iteration``, before that step.

        Raises:
            StillhouseError: an image cannot be read or augmented.
        """
        if self._stream is None or iteration != self._step + 1:
            self._stream = self._data.passes.rotating(self.ids, iteration)
        self._batch, self._step, self._used = next(self._stream), iteration, 0

    def take(self, rows: int) -> Batch:
        """Take the next ``rows`` images of the fetched batch, on the CPU."""
        if self._batch is None:  # the assembly looks at shapes and values; workers need not start for that
            return next(iter(self._data.passes.once(self.ids[: max(2, rows)])))
        size = len(self._batch.id)
        start = self._used if self._used + 2 <= size else 0  # batch statistics need two rows
        part = slice(start, min(size, start + max(2, rows)))
        self._used = part.stop
        return Batch(self._batch.input[part], self._batch.target[part], self._batch.id[part])
