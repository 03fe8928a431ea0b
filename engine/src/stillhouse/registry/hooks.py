"""Hook calls, resolved: pluggy registers and validates, and the step runs plain lists of bound methods.

A pluggy call costs about a microsecond and a third more per plugin; the step makes ten of them. Lists also say whose
result is whose, and let an error name its plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, cast

import pluggy

from stillhouse.contract.hookspecs import PROJECT, SPECIFICATIONS, hook_arguments, hookimpl
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.protocols import Named
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.registry.order import Active

__all__ = ["Call", "Hooks", "emit", "named_values"]

Call = tuple[Named, Callable[..., Any]]
"""A plugin or an observer, and its implementation of one hook, to be called by position."""


def emit(calls: Sequence[Call], hook: str, where: Callable[[], str], *arguments: Any) -> None:
    """Call the implementations of ``hook`` in turn.

    A plugin's error leaves with a note that names plugin, hook and ``where``. An observer of the engine's own has none:
    its errors are the engine's.
    """
    for owner, function in calls:
        try:
            function(*arguments)
        except Exception as error:
            if isinstance(owner, Plugin):
                error.add_note(f"in plugin {owner.name!r}, hook {hook!r}, {where()}")
            raise


def named_values(owner: Named, hook: str, function: Callable[..., Any], *arguments: Any) -> Mapping[str, Any]:
    """What the implementation ``function`` of ``hook`` gives, values by name.

    Raises:
        StillhouseError: it gives something else, or says itself what is wrong.
    """
    where = f"plugin {owner.name!r}"
    try:
        found = function(*arguments)
    except StillhouseError as error:
        raise error.within(where) from error.__cause__
    except Exception as error:
        error.add_note(f"in {where}, hook {hook!r}")
        raise
    if not isinstance(found, Mapping):
        raise StillhouseError(f"{hook} gave {type(found).__name__}", where=where, hint="a dict, {} for nothing")
    for name in found:
        if not isinstance(name, str):
            raise StillhouseError(f"{hook} gave the name {name!r}", where=where, hint="names are text")
    return found


class Hooks:
    """Every hook's implementations: those of the active plugins in order, then those of the engine's observers.

    Args:
        actives: the plugins, ordered.
        observers: see :meth:`observe`.

    Attributes:
        around: what is put around each function that :meth:`calls` gives, by its owner and hook: a clock, say.

    Raises:
        StillhouseError: pluggy refuses a plugin.
    """

    def __init__(self, actives: Sequence[Active], observers: Iterable[Named] = ()) -> None:
        self._actives = actives
        self._own = _Own()
        self.around: Callable[[Named, str, Callable[..., Any]], Callable[..., Any]] | None = None
        self.observe(observers)

    def observe(self, observers: Iterable[Named]) -> None:
        """Have ``observers`` hear events after the plugins, in their own order, and put them in place of those before.

        An observer is any object with hook implementations and a name. It may ask for ``tryfirst``, as pluggy has it, to
        hear an event before the plugins.
        """
        self._manager = pluggy.PluginManager(PROJECT)
        for specification in SPECIFICATIONS:
            self._manager.add_hookspecs(specification)
        self._manager.register(self._own, name=PROJECT)
        # pluggy calls what was registered last first: registering in reverse gives the order.
        for observer in reversed(list(observers)):
            self._manager.register(observer)  # without its name, which a plugin may have as well
        for active in reversed(self._actives):
            try:
                self._manager.register(active.plugin, name=active.name)
            except (pluggy.PluginValidationError, ValueError) as error:
                raise StillhouseError(str(error), where=f"plugin {active.name!r}") from error
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise StillhouseError(str(error), hint=did_you_mean(str(error), hook_arguments())) from error
        self._impls = {name: self._own_last(name) for name in hook_arguments()}

    def _own_last(self, name: str) -> list[pluggy.HookImpl]:
        impls = reversed(getattr(self._manager.hook, name).get_hookimpls())
        own = [impl for impl in impls if impl.plugin is not self._own and not impl.wrapper]
        return [impl for impl in own if not isinstance(impl.plugin, Plugin) or impl.plugin.hears(name)]

    def calls(self, name: str, **bound: Any) -> list[Call]:
        """The implementations of hook ``name``, to be called one by one.

        Each takes by position the hook's arguments that are not ``bound``: ``calls("transform")`` take the step, and so
        do ``calls("optimizer_stepped", run=run)``.
        """
        offered = tuple(a for a in hook_arguments()[name] if a not in bound)
        found = [
            (cast("Named", impl.plugin), _adapt(impl.function, impl.argnames, offered, bound))
            for impl in self._impls[name]
        ]
        around = self.around
        return found if around is None else [(owner, around(owner, name, function)) for owner, function in found]

    def sole(self, name: str) -> Call | None:
        """The implementation of hook ``name``, which one plugin at most may have; None where none has it.

        Raises:
            StillhouseError: several plugins have it.
        """
        calls = self.calls(name)
        if len(calls) > 1:
            raise StillhouseError(
                f"{', '.join(repr(owner.name) for owner, _ in calls)} all implement {name}, and one plugin at most may",
                where="plugins",
                hint="leave all but one of them out",
            )
        return calls[0] if calls else None

    def teacher_forward(self, own: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The teacher's forward with the plugins around it, then ``own``; ``own`` itself where no plugin has a say."""
        caller = self._manager.hook.teacher_forward
        if len(caller.get_hookimpls()) == 1:
            return own
        self._own.forward = own
        names = ", ".join(
            repr(cast("Named", impl.plugin).name) for impl in caller.get_hookimpls() if impl.plugin is not self._own
        )

        def forward(step: Any) -> Any:
            try:
                return caller(step=step)
            except Exception as error:
                # One call for all of them: whose frame it was, the traceback shows.
                place = f"epoch {step.epoch + 1}, step {step.iteration + 1}"
                error.add_note(f"in hook 'teacher_forward' of {names}, {place}")
                raise

        return forward


class _Own:
    """The engine's own teacher_forward, inside of the plugins' wrappers and after whoever answers."""

    forward: Callable[[Any], Any]

    @hookimpl(wrapper=True, trylast=True)
    def teacher_forward(self, step: Any) -> Generator[None, Any, bool]:
        """Let plugins answer, then run the engine's own forward for what they left."""
        yield
        self.forward(step)
        return True


def _adapt(
    function: Callable[..., Any], wants: Sequence[str], offered: tuple[str, ...], bound: Mapping[str, Any]
) -> Callable[..., Any]:
    """``function`` so that it takes all that is ``offered``, by position; itself where it takes just that."""
    if tuple(wants) == offered:
        return function
    own = {name: bound[name] for name in wants if name in bound}
    places = [(name, offered.index(name)) for name in wants if name not in bound]
    return lambda *arguments: function(**own, **{name: arguments[place] for name, place in places})
