"""Data, as a run has them: streams of batches for training and evaluation, wherever they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.contract.protocols import SamplesById

__all__ = ["Data"]


class Data(ABC):
    """Batches for training and evaluation; made by :func:`stillhouse.data.load_data`.

    Attributes:
        info: classes, shapes and statistics of the data.
        notes: what a run on them should be told of, a sentence each: classes that are missing.
    """

    info: DataInfo
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: ``train`` and those for evaluation."""

    @property
    def transforms(self) -> tuple[tuple[str, bool], ...]:
        """Training's transforms in order: the class of each, and whether it works on a whole batch at once."""
        return ()

    @property
    def weight_range(self) -> tuple[float, float] | None:
        """The least and the greatest factor of a sample in the task's loss; None: each counts alike."""
        return None

    @property
    def unlabelled_in_batch(self) -> int:
        """Unlabelled samples in a training batch of all processes, behind its labelled ones."""
        return 0

    @property
    @abstractmethod
    def passes(self) -> SamplesById:
        """Streams of samples by their ids, for a teacher's single pass."""

    @abstractmethod
    def repeat_looks(self, views: int) -> None:
        """Have training give each sample ``views`` different looks, those that a cache keeps; 0 asks for nothing.

        Raises:
            StillhouseError: another number was asked for before.
        """

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch, at least 1."""

    @abstractmethod
    def example(self, n: int = 2, split: str = "train") -> Batch:
        """Return ``n`` samples of ``split``; repeated when there are fewer."""

    @abstractmethod
    def training(self, start_step: int = 0) -> Iterator[Batch]:
        """Stream training batches without end, from global step ``start_step`` on, as if the earlier ones had been taken.

        Raises:
            StillhouseError: on the way, when a sample cannot be read or augmented.
        """

    @abstractmethod
    def evaluation(self, split: str) -> Iterable[Batch]:
        """Return the batches of ``split``: every sample once, in order, unaugmented; sized, and iterable more than once.

        Raises:
            StillhouseError: there is no such split.
        """

    @abstractmethod
    def close(self) -> None:
        """End every stream and its workers."""
