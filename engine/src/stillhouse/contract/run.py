"""Run: what a plugin sees of the training that it takes part in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from ignite.engine import Engine
from torch.optim import Optimizer

from stillhouse.contract.assembly import Facts
from stillhouse.contract.protocols import Composed, Named
from stillhouse.contract.sealed import Metrics, refuse

__all__ = ["Run"]


@attrs.frozen(eq=False, kw_only=True)
class Run(Facts):
    """One training run, complete, as ``run`` arrives in hooks, to be read.

    It has the attributes of :class:`stillhouse.contract.assembly.Facts` as well.

    Attributes:
        composition: the module that turns a batch into losses.
        optimizer: torch's, with one parameter group for the student and one for each plugin that has parameters.
        trainer: the ignite engine that trains; ignite handlers attach to it.
        evaluator: the ignite engine that measures.
        folder: the run's folder; None for a run that writes nothing.
        writes: this process writes into ``folder``: of several one does, and in a run without a folder none.
        metrics: the latest metrics by split: ``{"val": {"accuracy": ...}}``.
    """

    composition: Composed
    optimizer: Optimizer
    trainer: Engine
    evaluator: Engine
    folder: Path | None = None
    writes: bool = False
    metrics: dict[str, Mapping[str, float]] = attrs.field(factory=Metrics)

    def module(self, plugin: Named) -> Any:
        """The module that ``plugin``'s ``build`` returned.

        Raises:
            KeyError: it returned none.
        """
        return self.composition.plugin_module(plugin)


def _refuse(_run: Run, name: str, _value: Any) -> None:
    refuse(f"run.{name}")


# attrs lets no frozen class have its own, and its own error names no hook.
Run.__setattr__ = _refuse  # type: ignore[assignment,method-assign]
