"""Protocols and base classes of what the floors above bring: where batches come from, what makes losses of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from stillhouse.contract.batch import Batch, DataInfo

__all__ = ["Batches", "Composed", "Named", "ProgressReport", "SamplesById", "Silent"]

Ids = NDArray[np.int64]


class Named(Protocol):
    """A plugin, or an observer of the engine's, as far as it must be known to be asked about."""

    @property
    def name(self) -> str:
        """The name."""


class Composed(nn.Module):
    """Base of the module that turns a batch into losses; the loop has it, and every method that is not implemented here.

    Attributes:
        student: the model that is trained.
        modules_of: what each plugin built, by the plugin's name.
        matched: names that :meth:`match` has found, by what and pattern.
        trained: every parameter that is trained, with its name; filled where a plugin combines gradients.
    """

    student: nn.Module
    modules_of: dict[str, nn.Module]
    matched: dict[str, dict[str, list[str]]]
    trained: tuple[tuple[str, nn.Parameter], ...] = ()

    def match(self, what: str, pattern: str) -> list[str]:
        """Names by glob, remembered."""
        raise NotImplementedError

    def plugin_module(self, plugin: Named | str) -> nn.Module:
        """The module that a plugin built."""
        raise NotImplementedError

    def compute_sample_losses(self, step: Any) -> tuple[Any, Any]:
        """What the task's ``loss_by_sample`` gives for ``step``."""
        raise NotImplementedError

    # Any: a Step, which stands above, as it has a composition, and the Side that it gets.
    def forward_again(self, step: Any, which: str | nn.Module, inputs: Any, targets: Any = None) -> Any:
        """Call a model once more, as the first pass called it."""
        raise NotImplementedError


class SamplesById(Protocol):
    """Goes over samples by their ids: for a teacher's one pass."""

    def ids(self, which: str) -> Ids:
        """The ids (N,), sorted, of a split as it is used; ``pool`` is the whole training split, and the unlabelled samples."""

    def labels(self, ids: Ids) -> Ids:
        """The classes (N,) of ``ids``."""

    def once(self, ids: Ids, view: int | None = None) -> Iterable[Batch]:
        """Every sample of ``ids`` once, in order, as in evaluation; with ``view``, augmented as in that epoch."""

    def content(self, ids: Ids) -> str:
        """A hash of the ids in order and of each sample as it is stored."""

    def transform(self) -> dict[str, Any]:
        """Steps between reading a sample and the model in evaluation, as plain data."""

    def augmentation(self) -> dict[str, Any]:
        """Steps that training adds to those, with the seed that their randomness follows from."""


class Batches(Protocol):
    """Where batches come from.

    Attributes:
        info: what is known of the data.
    """

    info: DataInfo

    @property
    def passes(self) -> SamplesById:
        """Goes over samples by their ids."""

    def repeat_looks(self, views: int) -> None:
        """Have training give each sample ``views`` different looks, by epoch modulo this; 0 asks for nothing."""

    def example(self, n: int = 2) -> Batch:
        """``n`` training samples."""

    def training(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches without end."""

    def evaluation(self, split: str) -> Iterable[Batch]:
        """Every sample of a split once."""


class ProgressReport(Protocol):
    """Shows how far something is."""

    def say(self, text: str) -> None:
        """One line."""

    def counting(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """How much of ``total`` is done."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def counting(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Nothing."""
        return nullcontext(lambda _more: None)
