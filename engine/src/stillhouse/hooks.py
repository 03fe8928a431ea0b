"""Hook calls, resolved: pluggy registers and validates, and the step runs plain lists of bound methods.

A pluggy call costs about a microsecond and a third more per plugin; the step makes ten of them. Lists also say whose
result is whose, and let an error name its plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.hookspecs import PROJECT, SPECIFICATIONS, hook_arguments, hookimpl
from stillhouse.ordering import Active
from stillhouse.plugin import Plugin

__all__ = ["Call", "Hooks"]

Call = tuple[Plugin, Callable[..., Any]]
"""A plugin and its implementation of one hook, which takes the hook's arguments in the specification's order."""


class Hooks:
    """Every hook's implementations of the active plugins, in order.

    Args:
        actives: the plugins, ordered.

    Raises:
        StillhouseError: pluggy refuses a plugin.
    """

    def __init__(self, actives: Sequence[Active]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        for specification in SPECIFICATIONS:
            self._manager.add_hookspecs(specification)
        self._own = _Own()
        self._manager.register(self._own, name=PROJECT)
        # pluggy calls the plugin registered last first: registering in reverse gives the list's order.
        for active in reversed(actives):
            try:
                self._manager.register(active.plugin, name=active.name)
            except (pluggy.PluginValidationError, ValueError) as error:
                raise StillhouseError(str(error), where=f"plugin {active.name!r}") from error
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise StillhouseError(str(error), hint=did_you_mean(str(error), hook_arguments())) from error
        self._calls: dict[str, list[Call]] = {
            name: self._resolve(name, args) for name, args in hook_arguments().items()
        }

    def _resolve(self, name: str, arguments: tuple[str, ...]) -> list[Call]:
        return [
            (impl.plugin, _adapt(impl.function, impl.argnames, arguments))
            for impl in reversed(getattr(self._manager.hook, name).get_hookimpls())
            if impl.plugin is not self._own and not impl.wrapper
        ]

    def calls(self, name: str) -> list[Call]:
        """The implementations of hook ``name``: call them one by one with the hook's arguments, by position."""
        return self._calls[name]

    def teacher_forward(self, own: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The teacher's forward with the plugins around it, ``own`` last; ``own`` itself where no plugin has a say."""
        caller = self._manager.hook.teacher_forward
        if len(caller.get_hookimpls()) == 1:
            return own
        self._own.forward = own
        return lambda step: caller(step=step)


class _Own:
    """The engine's own teacher_forward; registered first, so that pluggy calls it last."""

    forward: Callable[[Any], Any]

    @hookimpl
    def teacher_forward(self, step: Any) -> Any:
        """Run the engine's own forward."""
        return self.forward(step)


def _adapt(function: Callable[..., Any], wants: Sequence[str], offered: tuple[str, ...]) -> Callable[..., Any]:
    """``function`` so that it takes all that is ``offered``, by position; itself where it takes just that."""
    if tuple(wants) == offered:
        return function
    places = [offered.index(name) for name in wants]
    if len(offered) == 2 and len(places) == 1:
        place = places[0]
        return lambda *arguments: function(arguments[place])
    return lambda *arguments: function(*(arguments[i] for i in places))
