"""The weighted sum of a step's loss terms: the task's, by sample where plugins weigh the samples, and the plugins'."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from stillhouse.contract.step import Step
from stillhouse.contract.task import Task
from stillhouse.contract.turns import enter
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.layout import format_shape
from stillhouse.loop.phases import note_place
from stillhouse.loop.step_hooks import StepHooks
from stillhouse.schedule import Schedule

__all__ = ["Terms", "check_terms"]

_MANY = 8  # terms of one plugin, from which on to stack them and sum that is faster than one addition after the other


class Terms:
    """What gives a step's losses.

    Args:
        task: gives the task's loss.
        hooks: the plugins' hooks, with their weights.
        total_steps: the run's optimizer steps, which weight schedules are fractions of.

    Attributes:
        hooks: as given; others may take their place.
    """

    def __init__(self, task: Task, hooks: StepHooks, total_steps: int) -> None:
        self._task, self._total_steps = task, total_steps
        self.hooks = hooks
        self._names: dict[tuple[str, ...], list[str]] = {}
        self._heard: set[str] = set()
        self._silent: set[str] = set()

    @property
    def switch_off(self) -> bool:
        """Whether some term has a schedule and may be left out of a step."""
        return any(isinstance(weight, Schedule) for _, _, _, weight in self.hooks.terms)

    def require_sample_losses(self, step: Step) -> None:
        """Look whether the samples can be weighed, if a plugin wants it; the student has answered.

        Raises:
            StillhouseError: the task has no losses by sample.
        """
        if self.hooks.weighing and self._task.loss_by_sample(step.student.output, step.targets) is None:
            raise _make_refusal(self._task).within(f"plugin {self.hooks.weighing[0][0].name!r}")

    def compute_by_sample(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """The task's losses by sample, computed once a step.

        Raises:
            StillhouseError: the task has none, or the student has not answered.
        """
        if step.student.output is None:
            raise StillhouseError(
                "is read before the student has answered",
                where="step.sample_losses",
                hint="it is there in sample_weights and losses",
            )
        found = self._task.loss_by_sample(step.student.output, step.targets)
        if found is None:
            raise _make_refusal(self._task)
        return found

    def weigh_loss(self, step: Step) -> Tensor:
        """The task's loss of samples that plugins weigh, a scalar on the device."""
        sums, count = step.composition.compute_sample_losses(step)
        enter(step, "sample_weights")
        weighted: Tensor = sums
        for plugin, function in self.hooks.weighing:
            with torch.no_grad():
                try:
                    factors = _check_weights(function(step), sums)
                except Exception as error:
                    note_place(error, plugin, "sample_weights", step)
                    raise
            weighted = weighted * factors
        return weighted.sum() / (len(sums) if count is None else count.clamp(min=1))

    def add_up(self, step: Step) -> Tensor:
        """Fill ``step.losses`` and ``step.weights``; the weighted sum, a scalar on the device."""
        total = self.weigh_loss(step) if self.hooks.weighing else self._task.loss(step.student.output, step.targets)
        enter(step, "losses")
        losses, weights, put = step.losses, step.weights, dict.__setitem__
        put(losses, "task", total)
        put(weights, "task", 1.0)
        share = step.share
        if share is not None:
            total = total * share[0]
        for plugin, owner, function, weight in self.hooks.terms:
            if isinstance(weight, Schedule):
                weight = weight.at(step.iteration, self._total_steps)
            if weight == 0.0:
                continue
            factor = weight if share is None else weight * share[1]
            try:
                terms = check_terms(function(step))
            except Exception as error:
                note_place(error, plugin, "losses", step)
                raise
            key = (owner, *terms)
            names = self._names.get(key)
            if names is None:
                names = self._names[key] = [f"{owner}/{term}" if term else owner for term in terms]
            dict.update(losses, zip(names, terms.values(), strict=True))
            dict.update(weights, dict.fromkeys(names, weight))
            values: Iterable[Tensor] = terms.values()
            if len(terms) >= _MANY and len({value.device for value in values}) == 1:
                values = [(many := torch.stack(tuple(values))).sum(dtype=torch.promote_types(many.dtype, total.dtype))]
            for value in values:
                # Two kernels less, forward and backward, where the weight is the default.
                total = total + (value if factor == 1.0 else factor * value)
            if owner not in self._heard:
                # Whoever provides something for others has its use without a term: links, say.
                useful = bool(terms) or bool(getattr(plugin, "provides", ()))
                (self._heard if useful else self._silent).add(owner)
        return total

    def warn_of_silent(self, steps: int) -> None:
        """Warn of plugins that have been asked for losses in some of ``steps`` steps and have given none."""
        for owner in sorted(self._silent - self._heard):
            warnings.warn(
                f"plugin {owner!r}, hook 'losses': gave no loss term in {steps} steps; it returns "
                "{name: loss}, and a term that begins later has a schedule as its weight",
                StillhouseWarning,
                stacklevel=2,
            )


def check_terms(terms: Any) -> Mapping[str, Tensor]:
    """What ``losses`` gave, if it is what it should be.

    Raises:
        StillhouseError: no dict, a term that is no scalar tensor, or a name with a slash.
    """
    if type(terms) is not dict and not isinstance(terms, Mapping):  # the look into an abstract class is slow
        raise StillhouseError(f"losses gave {type(terms).__name__}", hint='a dict of scalar tensors: {"": loss}')
    for term, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim:
            got = f"a tensor of shape {format_shape(value)}" if isinstance(value, Tensor) else type(value).__name__
            raise StillhouseError(f"losses: the loss term {term!r} is {got}", hint="a scalar tensor, such as x.mean()")
        if not isinstance(term, str) or "/" in term:
            raise StillhouseError(
                f"the name of the loss term {term!r} must be text without a slash",
                hint="the run knows it as PLUGIN/TERM already; of a link: link.name.replace('/', '.')",
            )
    return terms


def _check_weights(weights: Any, sums: Tensor) -> Tensor:
    wanted = f"a tensor ({len(sums)},) on {sums.device}, a factor for each sample"
    if not isinstance(weights, Tensor):
        raise StillhouseError(f"sample_weights gave {type(weights).__name__}", hint=wanted)
    if weights.shape != sums.shape:
        raise StillhouseError(f"sample_weights gave a tensor of shape {format_shape(weights)}", hint=wanted)
    if weights.device != sums.device:
        raise StillhouseError(f"sample_weights gave a tensor on {weights.device}", hint=wanted)
    return weights.detach().to(sums.dtype)


def _make_refusal(task: Task) -> StillhouseError:
    return StillhouseError(
        f"needs the loss of each sample, and the task {type(task).__name__} has none",
        hint="a task whose loss is a sum over samples has loss_by_sample",
    )
