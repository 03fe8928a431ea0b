"""What a step calls of the plugins inside its forward pass, resolved: transforms, and losses with their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Step
from stillhouse.errors import StillhouseError
from stillhouse.registry.hooks import Call, Hooks
from stillhouse.schedule import Schedule

__all__ = ["StepHooks", "resolve"]


@attrs.frozen(eq=False)
class StepHooks:
    """The plugins' hooks inside a step's forward pass, in order.

    Attributes:
        prepares: ``(plugin, prepare_batch)``.
        transforms: ``(plugin, transform)``.
        weighing: ``(plugin, sample_weights)``.
        terms: ``(plugin, its name, losses, weight)``.
    """

    prepares: Sequence[Call]
    transforms: Sequence[Call]
    weighing: Sequence[Call]
    terms: Sequence[tuple[Named, str, Callable[[Step], Mapping[str, Tensor]], float | Schedule]]

    def wrapped(self, around: Callable[[Named, str, Callable[[Step], Any]], Callable[[Step], Any]]) -> StepHooks:
        """The same with ``around(plugin, hook, function)`` for each function that the models' answers reach."""
        return StepHooks(
            self.prepares,
            [(plugin, around(plugin, "transform", function)) for plugin, function in self.transforms],
            [(plugin, around(plugin, "sample_weights", function)) for plugin, function in self.weighing],
            [(p, name, around(p, "losses", function), weight) for p, name, function, weight in self.terms],
        )


def resolve(hooks: Hooks, total_steps: int, steps_per_epoch: int) -> StepHooks:
    """The hooks of a step, with schedules in steps of a run of ``total_steps``.

    Raises:
        StillhouseError: a weight's warm-up is longer than the run.
    """
    return StepHooks(
        hooks.calls("prepare_batch"),
        hooks.calls("transform"),
        hooks.calls("sample_weights"),
        [(p, p.name, function, _weight_of(p, total_steps, steps_per_epoch)) for p, function in hooks.calls("losses")],
    )


def _weight_of(plugin: Named, total_steps: int, steps_per_epoch: int) -> float | Schedule:
    weight: Any = plugin.weight  # type: ignore[attr-defined]  # @plugin checks that a plugin with losses has it
    if not isinstance(weight, Schedule):
        return float(weight)
    try:
        return weight.to_steps(total_steps, steps_per_epoch)
    except StillhouseError as error:
        raise error.within(f"plugin {plugin.name!r}: weight") from None
