"""Run: what a plugin sees of the run it takes part in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch
from torch import Tensor, nn

from stillhouse.contract.layers import Which, find_layers, match_names
from stillhouse.contract.protocols import ProgressReport, Silent
from stillhouse.errors import StillhouseError, did_you_mean

if TYPE_CHECKING:
    from ignite.engine import Engine

    from stillhouse.config.recipe import Recipe
    from stillhouse.contract.batch import DataInfo
    from stillhouse.contract.plugin import Plugin
    from stillhouse.contract.step import Link
    from stillhouse.contract.task import Task

__all__ = ["Run"]

T = TypeVar("T")


@attrs.define(eq=False)
class Run:
    """One training run, as ``run`` arrives in hooks.

    Attributes:
        recipe: the resolved recipe.
        seed: the run's seed.
        device: where the models are.
        student: the model that is trained.
        teacher: the frozen model, in eval mode; None in a run without one.
        task: what gives the task's loss and metrics.
        data: what is known of the data: classes, class names, sizes, the shape of one input.
        epochs: how many epochs the run has.
        steps_per_epoch: optimizer steps in an epoch.
        plugins: the active plugins in the order in which their hooks run.
        features: at assembly, ``{"student": {path: tensor}, "teacher": {...}}`` of one small batch (B >= 2).
        links: at assembly, the links by name as they reach the plugin that is being built: B >= 2, real shapes.
        composition: the module that turns a batch into losses.
        trainer: the ignite engine that trains; ignite handlers attach to it.
        evaluator: the ignite engine that measures.
        folder: the run's folder; None for a run that writes nothing.
        batches: where batches come from; None where a run is rebuilt to be loaded into.
        dry: the run is only looked at, or loaded into: nothing is computed at length, and nothing written.
        progress: shows on the terminal how far something is.
        notes: lines that ``stillhouse explain`` shows, by plugin.
        released: the plugins that have no more use for the teacher: see :meth:`release_teacher`.
        caches: the teacher caches that are open, by what was asked for: see :mod:`stillhouse.teachers.cache`.
        settles_at: the optimizer step from which on an epoch may be the best one: see :meth:`settle`.
    """

    recipe: Recipe
    seed: int
    device: torch.device
    student: nn.Module
    teacher: nn.Module | None
    task: Task
    data: DataInfo
    epochs: int
    steps_per_epoch: int
    plugins: tuple[Plugin, ...] = ()
    features: dict[str, dict[str, Tensor]] = attrs.field(factory=lambda: {"student": {}, "teacher": {}})
    links: dict[str, Link] = attrs.field(factory=dict)
    folder: Path | None = None
    batches: Any = None
    dry: bool = False
    progress: ProgressReport = attrs.field(factory=Silent)
    notes: dict[str, list[str]] = attrs.field(factory=dict)
    released: dict[str, bool] = attrs.field(factory=dict)
    caches: dict[Any, Any] = attrs.field(factory=dict)
    settles_at: int = 0
    _composition: Any = attrs.field(default=None, alias="composition")
    _trainer: Engine | None = attrs.field(default=None, alias="trainer")
    _evaluator: Engine | None = attrs.field(default=None, alias="evaluator")
    metrics: dict[str, Mapping[str, float]] = attrs.field(factory=dict)
    """The latest metrics by split: ``{"val": {"accuracy": ...}}``."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def composition(self) -> Any:
        """The module that turns a batch into losses; there from the end of the assembly on."""
        return _there(self._composition, "composition")

    @property
    def trainer(self) -> Engine:
        """The ignite engine that trains."""
        return _there(self._trainer, "trainer")

    @property
    def evaluator(self) -> Engine:
        """The ignite engine that measures."""
        return _there(self._evaluator, "evaluator")

    def layers(self, model: Which, pattern: str) -> list[str]:
        """The dotted paths of ``model``'s layers that the path or glob ``pattern`` matches, in the model's order.

        Raises:
            StillhouseError: nothing matches (with the nearest names), or there is no teacher.
        """
        module = self.student if model == "student" else self.teacher
        if module is None:
            raise StillhouseError(
                f"reads the teacher's layer {pattern!r}, and the run has no teacher", hint="add a [teacher] table"
            )
        return find_layers(module, model, pattern)

    def match(self, pattern: str) -> list[Link]:
        """At assembly: the links whose name matches the glob ``pattern``, with the shapes that reach this plugin.

        Raises:
            StillhouseError: no link matches.
        """
        names = match_names(pattern, self.links)
        if not names:
            raise StillhouseError(
                f"links = {pattern!r} matches no link",
                hint=did_you_mean(pattern, self.links) or "no plugin before this one makes links",
            )
        return [self.links[name] for name in names]

    def note(self, plugin: Plugin, text: str) -> None:
        """Have ``stillhouse explain`` show a line under ``plugin``."""
        self.notes.setdefault(plugin.name, []).append(text)

    def release_teacher(self, plugin: Plugin, *, for_all: bool = False) -> None:
        """At assembly: ``plugin`` has no more use for the teacher. When none has, the teacher leaves memory.

        Args:
            plugin: which speaks.
            for_all: it answers ``teacher_forward`` in every step, so that nobody else needs the teacher either.
        """
        self.released[plugin.name] = for_all

    def settle(self, step: int) -> None:
        """At assembly: until optimizer step ``step``, from 1, the student is not yet what the method makes of it.

        No epoch that ends before counts as the best, whatever its score: its weights are another model's.
        """
        self.settles_at = max(self.settles_at, step)

    def module(self, plugin: Plugin) -> Any:
        """What ``plugin``'s ``build`` returned."""
        return self.composition.plugin_module(plugin)


def _there(value: T | None, name: str) -> T:
    if value is None:
        raise RuntimeError(f"run.{name} is not there yet: the run is still being assembled")
    return value
