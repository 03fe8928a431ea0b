"""The labelled part of a step, for plugins' hooks that read targets, or all of them where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.contract.protocols import Named
from stillhouse.contract.sealed import Links, Teachers, put
from stillhouse.contract.step import Link, Side, Step
from stillhouse.contract.turns import add_links
from stillhouse.errors import StillhouseError
from stillhouse.loop.step_hooks import StepHooks
from stillhouse.nested import PartlyLabelled
from stillhouse.registry.order import CLASSES

__all__ = ["restrict", "see_labelled"]

_MEMO = "labelled part"


def restrict(hooks: StepHooks, spec: DataSpec) -> StepHooks:
    """The hooks of a run with unlabelled samples: those that need labels see the labelled part of a step.

    They are ``losses`` and ``sample_weights`` of plugins that require class indices, and with ``terms = "labelled"`` of all.
    A term of the labelled part is weighted as the task's loss is: by labelled samples.

    Raises:
        StillhouseError: a plugin replaces targets, of which not all mean something.
    """
    for plugin, _ in hooks.prepares:
        if "targets" in getattr(plugin, "changes", ()):
            raise StillhouseError(
                "replaces targets, which unlabelled samples have none of",
                where=f"plugin {plugin.name!r}",
                hint="leave it out, or `unlabelled` and `pool` of [data]",
            )

    def around(plugin: Named, hook: str, function: Callable[[Step], Any]) -> Callable[[Step], Any]:
        needs = spec.terms == "labelled" or CLASSES in getattr(plugin, "requires", ())
        if hook == "transform" or not needs:
            return function
        return _weigh(function) if hook == "sample_weights" else _add(function)

    return hooks.wrapped(around)


def _add(losses: Callable[[Step], Any]) -> Callable[[Step], Any]:
    """``losses`` of the labelled part; no term where nothing is labelled."""

    def of_labelled(step: Step) -> Any:
        targets = step.targets
        if not isinstance(targets, PartlyLabelled):
            return losses(step)
        if not targets.number:
            return {}
        terms = losses(see_labelled(step))
        labelled, every = targets.of
        # The engine weighs each part by its samples: the share of the labelled ones may be another.
        factor = targets.number * every / (labelled * len(targets.labelled))
        if factor == 1.0 or not isinstance(terms, Mapping):
            return terms
        return {name: value * factor for name, value in terms.items()}

    return of_labelled


def _weigh(sample_weights: Callable[[Step], Any]) -> Callable[[Step], Any]:
    """``sample_weights`` of the labelled part; 1 for the others, whose losses are 0."""

    def of_labelled(step: Step) -> Any:
        targets = step.targets
        if not isinstance(targets, PartlyLabelled) or not targets.number:
            return sample_weights(step)
        factors = sample_weights(see_labelled(step))
        if not isinstance(factors, Tensor) or factors.shape != (targets.number,):
            return factors  # which is refused
        return torch.cat([factors, factors.new_ones(len(targets.labelled) - targets.number)])

    return of_labelled


def see_labelled(step: Step) -> Step:
    """``step`` as if its batch had the labelled samples alone: its targets are plain ones, and its memo is of its own."""
    targets: PartlyLabelled = step.targets
    seen = Step(
        targets.select(step.batch._replace(target=targets.values)),
        targets.select(step.ids),
        targets.select(step.inputs),
        targets.select(targets.values),
        step.iteration,
        step.epoch,
        step.composition,
        student=_LabelledSide(step.student, targets),
        teacher=None if step.teacher is None else _LabelledSide(step.teacher, targets),
        teachers=Teachers({name: _LabelledSide(side, targets) for name, side in step.teachers.items()}),
        links=Links(),
        losses=step.losses,
        weights=step.weights,
        share=step.share,
        phase=step.phase,
        memo=step.memo.setdefault(_MEMO, {}),
    )
    chosen = (
        Link(name, targets.select(link.student), targets.select(link.teacher)) for name, link in step.links.items()
    )
    add_links(seen, chosen)
    seen.__class__ = type(step)  # sealed, where that is
    return seen


class _LabelledSide(Side):
    """What a model gave for the labelled samples; selected when it is read, as nobody else may have asked for it."""

    __slots__ = ("_side", "_targets")
    _side: Side
    _targets: PartlyLabelled

    def __init__(self, side: Side, targets: PartlyLabelled) -> None:
        for name, value in (("_side", side), ("_targets", targets), ("features", _Selected(side.features, targets))):
            put(self, name, value)

    @property
    def output(self) -> Any:
        return self._targets.select(self._side.output)


class _Selected(Mapping[str, Tensor]):
    """Layers' outputs for the labelled samples."""

    def __init__(self, features: Mapping[str, Tensor], targets: PartlyLabelled) -> None:
        self._features, self._targets = features, targets

    def __getitem__(self, layer: str) -> Tensor:
        return self._targets.select(self._features[layer])

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)
