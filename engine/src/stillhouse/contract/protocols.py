"""What a run is made of, as plugins see it; the floors above bring the real things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn

from stillhouse.contract.batch import Batch, DataInfo

__all__ = ["Assembled", "Batches", "Named", "ProgressReport", "Silent"]


class Named(Protocol):
    """A plugin, or an observer of the engine's, as far as it must be known to be asked about."""

    @property
    def name(self) -> str:
        """The name."""


class Assembled(Protocol):
    """The module that turns a batch into losses."""

    modules_of: dict[str, nn.Module]
    matched: dict[str, dict[str, list[str]]]

    def match(self, what: str, pattern: str) -> list[str]:
        """Names by glob, remembered."""

    def plugin_module(self, plugin: Any) -> nn.Module:
        """What a plugin built."""


class Batches(Protocol):
    """Where batches come from."""

    info: DataInfo
    views: int

    @property
    def passes(self) -> Any:
        """Goes over samples by their ids."""

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
