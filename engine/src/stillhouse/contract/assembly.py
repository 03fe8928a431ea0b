"""Assembly: what is known of a run before it trains, and of one that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from stillhouse.contract.layers import Which, find_layers, match_names, split_layer
from stillhouse.contract.protocols import Batches, Named, ProgressReport, Silent
from stillhouse.errors import StillhouseError, did_you_mean

if TYPE_CHECKING:
    from stillhouse.config.recipe import Recipe
    from stillhouse.config.teacher import TeacherSpec
    from stillhouse.contract.batch import DataInfo
    from stillhouse.contract.step import Link
    from stillhouse.contract.task import Task

__all__ = ["Assembly", "Facts", "Rows"]


class Rows:
    """The training samples numbered from 0: what a memory bank has its rows by.

    Args:
        count: how many training samples there are.
        find_ids: gives their ids, sorted; called once, when the first sample is looked up. None: a run that is loaded,
            whose banks come from the checkpoint. The samples that it is walked over with may be others: all are row 0.
    """

    def __init__(self, count: int, find_ids: Callable[[], Any] | None = None) -> None:
        self.count = count
        self._find_ids = find_ids
        self._ids: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def __call__(self, ids: Tensor) -> Tensor:
        """The rows (B,), int64 on the CPU, of the samples ``ids`` (B,): 0 to ``count - 1``, in the ids' order.

        Raises:
            StillhouseError: one of them is no training sample.
        """
        if self._find_ids is None:
            return torch.zeros_like(ids)
        if self._ids is None:
            self._ids = torch.as_tensor(self._find_ids(), dtype=torch.int64)
        rows = torch.searchsorted(self._ids, ids).clamp_(max=len(self._ids) - 1)
        strangers = ids[self._ids[rows] != ids]
        if len(strangers):
            raise StillhouseError(f"assembly.rows: the sample {int(strangers[0])} is not one of the training split")
        return rows


@attrs.define(eq=False, kw_only=True)
class Facts:
    """What is known of a run from its assembly to its end: the part that ``assembly`` and ``run`` have in common.

    Attributes:
        recipe: the resolved recipe.
        seed: the run's seed.
        device: where the models are.
        student: the model that is trained.
        teacher: the frozen model, in eval mode; None in a run without one, or once it has left memory.
        teachers: further frozen models by name, those of ``[teachers.NAME]``.
        task: gives the task's loss and metrics.
        data: what is known of the data: classes, class names, sizes, the shape of one input.
        rows: numbers the training samples from 0, for memory banks.
        epochs: how many epochs the run has.
        steps_per_epoch: optimizer steps in an epoch.
        plugins: the active plugins in the order in which their hooks run.
        best_from: the optimizer step from which on an epoch may be the best one: see
            :meth:`Assembly.exclude_from_best_until`.
    """

    recipe: Recipe
    seed: int
    device: torch.device
    student: nn.Module
    teacher: nn.Module | None
    teachers: dict[str, nn.Module] = attrs.field(factory=dict)
    task: Task
    data: DataInfo
    rows: Rows
    epochs: int
    steps_per_epoch: int
    plugins: tuple[Named, ...] = ()
    best_from: int = 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def all_teachers(self) -> dict[str, nn.Module]:
        """Every teacher in memory by name, ``teacher`` first."""
        return self.teachers if self.teacher is None else {"teacher": self.teacher, **self.teachers}

    def facts(self) -> dict[str, Any]:
        """These attributes by name."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Facts)}


def _refuse_load(_plugin: str, option: str, _spec: TeacherSpec) -> nn.Module:
    raise StillhouseError("this assembly was made without a way to find models", where=option)


@attrs.define(eq=False, kw_only=True)
class Assembly(Facts):
    """A run that does not train yet, or is only loaded, as ``assembly`` arrives in hooks.

    It has the attributes of :class:`Facts` as well.

    Attributes:
        batches: where batches come from; None in a run that is loaded.
        inspect_only: the run is only looked at, or loaded: compute nothing at length, and write nothing.
        progress: shows on the terminal how far something is.
        notes: lines that ``stillhouse explain`` shows, by plugin.
        caches: the teacher caches that are open, by what was asked for: see :mod:`stillhouse.teachers.cache`.
        modules: what plugins built, by the plugin's name.
        released: the plugins that have no more use for the teacher: see :meth:`release_teacher`.
        find_model: builds what :meth:`load` asks for, on the CPU.
    """

    batches: Batches | None = None
    inspect_only: bool = False
    progress: ProgressReport = attrs.field(factory=Silent)
    notes: dict[str, list[str]] = attrs.field(factory=dict)
    caches: dict[Any, Any] = attrs.field(factory=dict)
    modules: dict[str, nn.Module] = attrs.field(factory=dict)
    released: dict[str, bool] = attrs.field(factory=dict)
    find_model: Callable[[str, str, TeacherSpec], nn.Module] = _refuse_load
    _features: Mapping[str, Mapping[str, Tensor]] | None = attrs.field(default=None, alias="features")
    _links: Mapping[str, Link] | None = attrs.field(default=None, alias="links")

    @property
    def features(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The tapped layers' outputs for a small batch (B >= 2): ``{"student": {path: tensor}, "teacher": {...}}``.

        Further teachers' layers stand under their names.

        Raises:
            StillhouseError: read elsewhere than in ``build`` and ``add_links``.
        """
        if self._features is None:
            raise _too_early_or_late("features")
        return self._features

    @property
    def links(self) -> Mapping[str, Link]:
        """The links by name as they reach the plugin that is being built: B >= 2, real shapes.

        Raises:
            StillhouseError: read elsewhere than in ``build`` and ``add_links``.
        """
        if self._links is None:
            raise _too_early_or_late("links")
        return self._links

    def layers(self, model: Which, pattern: str) -> list[str]:
        """The dotted paths of ``model``'s layers that the path or glob ``pattern`` matches, in the model's order.

        Args:
            model: ``student``, ``teacher``, or the name of a further teacher.
            pattern: a further teacher's layers are its own pattern, or ``NAME:pattern`` of ``teacher``: then the paths
                begin with ``NAME:`` as well.

        Raises:
            StillhouseError: nothing matches (with the nearest names), or there is no such teacher.
        """
        name, own = split_layer(model, pattern)
        found = find_layers(self._model(name, own), name, own)
        return found if name == model else [f"{name}:{layer}" for layer in found]

    def _model(self, name: Which, pattern: str) -> nn.Module:
        if name == "student":
            return self.student
        if self.teacher is None:
            raise StillhouseError(
                f"reads the teacher's layer {pattern!r}, and the run has no teacher", hint="add a [teacher] table"
            )
        known = self.all_teachers
        if name not in known:
            raise StillhouseError(
                f"reads the layer {pattern!r} of {name!r}, and the run has no such teacher",
                hint=did_you_mean(name, known) if self.teachers else f"add a [teachers.{name}] table",
            )
        return known[name]

    def load(self, plugin: Named, option: str) -> nn.Module:
        """The model that ``plugin``'s ``option``, a :class:`stillhouse.config.teacher.TeacherSpec`, names; on the device.

        It is the plugin's own: in train mode and with every parameter trained, until ``build`` says otherwise. What a
        recipe gives is trained before the run; in one that is only looked at or loaded the model may be as it starts.

        Raises:
            StillhouseError: it cannot be had.
        """
        return self.find_model(plugin.name, option, getattr(plugin, option)).to(self.device)

    def match(self, pattern: str) -> list[Link]:
        """In ``build`` and ``add_links``: the links whose name matches the glob ``pattern``, with the shapes that reach this plugin.

        Raises:
            StillhouseError: no link matches, or another hook asks.
        """
        names = match_names(pattern, self.links)
        if not names:
            raise StillhouseError(
                f"links = {pattern!r} matches no link",
                hint=did_you_mean(pattern, self.links) or "no plugin before this one makes links",
            )
        return [self.links[name] for name in names]

    def note(self, plugin: Named, text: str) -> None:
        """Have ``stillhouse explain`` show a line under ``plugin``."""
        self.notes.setdefault(plugin.name, []).append(text)

    def module(self, plugin: Named) -> Any:
        """The module that ``plugin``'s ``build`` returned.

        Raises:
            KeyError: it returned none, or has not been called yet.
        """
        return self.modules[plugin.name]

    def release_teacher(self, plugin: Named, *, for_all: bool = False) -> None:
        """Say that ``plugin`` has no more use for the teacher. When none has, every teacher leaves memory.

        Args:
            plugin: which speaks.
            for_all: it answers ``teacher_forward`` in every step, so that nobody else needs the teacher either. Further
                teachers stay.
        """
        self.released[plugin.name] = for_all

    def exclude_from_best_until(self, step: int) -> None:
        """Say that until optimizer step ``step``, from 1, the student is not yet what the method makes of it.

        No epoch that ends before counts as the best, whatever its score: its weights are another model's.
        """
        self.best_from = max(self.best_from, step)

    # What follows is for the loop, which assembles.

    def show(self, features: Mapping[str, Mapping[str, Tensor]], links: Mapping[str, Link]) -> None:
        """Have the plugin that is built next see these features and links."""
        self._features, self._links = features, links

    def conceal(self) -> None:
        """Let go of the tensors of the small batch: every plugin is built."""
        self._features = self._links = None

    def drop_teacher(self, *, further: bool = True) -> None:
        """Let go of the teacher, and of the ``further`` ones: nothing reads them any more."""
        self.teacher = None
        if further:
            self.teachers = {}


def _too_early_or_late(name: str) -> StillhouseError:
    return StillhouseError(
        f"assembly.{name} can be read in build and add_links only: before them no batch has gone through the models, "
        "and after them its tensors are gone",
        hint="read it in build, and keep the shapes in the module that build returns",
    )
