"""The second pass: which model a plugin's ``step.forward`` may call, and how."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stillhouse.contract.step import FORWARD_PHASES, Step
from stillhouse.errors import StillhouseError
from stillhouse.loop.tapped_model import TappedModel

__all__ = ["SecondPass"]


class SecondPass:
    """Finds the model that a plugin asks for, to be called as the first pass called it.

    Args:
        models: the run's, by name.
        modules_of: the plugins' modules, by plugin.
        teacher_is_live: a plugin requires that teachers can be called in steps.
    """

    def __init__(
        self, models: Mapping[str, TappedModel], modules_of: Mapping[str, nn.Module], *, teacher_is_live: bool
    ) -> None:
        self._models, self._modules_of, self._teacher_is_live = models, modules_of, teacher_is_live
        self._peers: dict[nn.Module, TappedModel] = {}

    def find(self, step: Step, which: str | nn.Module) -> TappedModel:
        """The model ``which``: its name, or a plugin's own module.

        Raises:
            StillhouseError: another hook asks, there is no such model, or it is not live.
        """
        if step.phase not in FORWARD_PHASES:
            raise StillhouseError(
                f"is called outside of {', '.join(FORWARD_PHASES)}",
                where="step.forward",
                hint="only what is computed there takes part in the backward pass",
            )
        model = self._peers.get(which) if isinstance(which, nn.Module) else self._models.get(which)
        if model is None:
            model = self._peer(which)
        if model.frozen and not self._teacher_is_live:
            raise StillhouseError(
                f"calls {model.name!r}, and no plugin requires a live teacher",
                where="step.forward",
                hint='requires = ("live teacher",)',
            )
        return model

    def _peer(self, which: str | nn.Module) -> TappedModel:
        """The way to call a plugin's own module as the student is called."""
        if isinstance(which, str):
            raise StillhouseError(
                f"the run has no {which!r}", where="step.forward", hint=f"it has {', '.join(self._models)}"
            )
        if not any(which is part for own in self._modules_of.values() for part in own.modules()):
            raise StillhouseError(
                f"is given a {type(which).__name__} that no plugin's build returned",
                where="step.forward",
                hint=f"a model of the run by its name, {', '.join(map(repr, self._models))}, or a part of step.module(self)",
            )
        made = self._peers[which] = self._models["student"].with_model(which)
        return made
