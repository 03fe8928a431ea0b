"""A run of Weights & Biases for each run: the recipe as its config, every scalar in its history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from stillhouse import Run
from stillhouse.training.points import Point
from stillhouse_loggers.packages import require
from stillhouse_loggers.receipt import Receipt

__all__ = ["WandbRun", "wait_for_a_new_name"]


@attrs.define
class WandbRun:
    """Writes below ``loggers`` in the run's folder and, online, to the service; the terminal is left alone.

    Attributes:
        project: in which the run is listed.
        entity: the user or team that it is of; None: the service's own choice.
        mode: ``offline`` keeps everything on the disk, for ``wandb sync``; None: as ``WANDB_MODE`` says, else online.
    """

    project: str = "stillhouse"
    entity: str | None = None
    mode: Literal["online", "offline"] | None = None
    _run: Any = attrs.field(init=False)  # of a package that need not be there, where options are read
    _receipt: Receipt = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        require("wandb")

    def open(self, run: Run) -> None:
        """Make the run, or go on with the one that this run has begun."""
        import wandb

        self._receipt = Receipt.read(run, "wandb")
        wait_for_a_new_name(self._receipt.path.parent, self._receipt.id)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=str(self._receipt.path.parent),
            id=self._receipt.id,
            name=run.recipe.run.name,
            config=run.recipe.to_dict(),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._receipt.id = self._run.id
        self._receipt.write()

    def write(self, points: Sequence[Point]) -> None:
        """Log what the service has not got yet."""
        new = self._receipt.select_new(points)
        for point in new:
            self._run.log(dict(point.scalars), step=point.step)
        self._receipt.add(new)

    def close(self, *, completed: bool) -> None:
        """Say how the run has ended, and wait until all is written."""
        self._run.finish(exit_code=0 if completed else 1)


def wait_for_a_new_name(folder: Path, identity: str | None) -> None:
    """Wait, a second at most, until what a run that goes on writes has a name of its own.

    wandb names it by the second and the run, and of two parts in one second it keeps the first alone.

    Args:
        folder: that wandb's own lies in.
        identity: the run's; None: it begins.
    """
    while identity is not None and any(folder.glob(f"wandb/*run-{time.strftime('%Y%m%d_%H%M%S')}-{identity}")):
        time.sleep(0.02)
