"""The observer that looks at what plugins do: whichever installed distribution brings it, none where none does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from stillhouse.config.run_options import WatchSpec
from stillhouse.contract.protocols import Named
from stillhouse.contract.run import Run
from stillhouse.entries import OBSERVERS, find, installed, load_entry
from stillhouse.training.alarms import Alarms
from stillhouse.training.clock import Clock

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Watching", "find_watcher"]

_NAME = "watcher"


class Watching(Named, Protocol):
    """What the entry point ``watcher`` of the group ``stillhouse.observers`` makes of a :class:`WatchSpec`, a clock and alarms.

    An observer: it hears through hooks, as ``@hookimpl`` methods. Its ``scalars`` are logged under their own names.
    """

    def show(self, writer: SummaryWriter, run: Run) -> None:
        """Write at the run's end what is more than scalars and figures, where the run draws."""

    def summarise(self) -> Mapping[str, Any]:
        """What the run's summary tells of the looks, as plain data: ``costs`` and ``alarms``."""


def find_watcher(spec: WatchSpec, clock: Clock, alarms: Alarms) -> Watching | None:
    """The installed watcher, if the recipe wants one.

    Raises:
        StillhouseError: it is broken, or two distributions bring one.
    """
    if not spec.enabled or all(found.use != _NAME for found in installed(OBSERVERS)):
        return None
    where = "watch.enabled"
    watcher: Watching = load_entry(find(OBSERVERS, _NAME, where), OBSERVERS, where)(spec, clock, alarms)
    return watcher
