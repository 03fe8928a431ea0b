"""Plugin, the base of all plugins, and ``@plugin``, which makes a class of options of it and checks it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform

import attrs
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from stillhouse.config.fields import strict_fields
from stillhouse.contract.hookspecs import PROJECT, hook_arguments, hookimpl
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["CHANGEABLE", "Plugin", "hookimpl", "option_names", "plugin", "renamed"]

C = TypeVar("C", bound="type[Plugin]")
T = TypeVar("T")
P = TypeVar("P", bound="Plugin")

CHANGEABLE = ("inputs", "targets", "ids")
"""What ``prepare_batch`` may replace, as a plugin declares it in ``changes``."""

_IMPL = f"{PROJECT}_impl"

_TWINS = {"run": "assembly", "assembly": "run"}
_TIMES = {
    "assembly": "an assembly is there before training, and of a run that is loaded",
    "run": "a run is there in training only",
}


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False, field_specifiers=(attrs.field,))
def _options(cls: type[T]) -> type[T]:
    """attrs.frozen, said so that type checkers see the inherited ``name`` in every plugin."""
    return attrs.frozen(kw_only=True, eq=False)(cls)


@_options
class Plugin:
    """Base of all plugins: frozen options and hook implementations, no training state.

    Every tensor a plugin owns lives in the module its ``build`` returns, so that the engine can move, optimise,
    checkpoint and resume it. Subclasses are decorated with :func:`plugin`; their annotated fields are the options,
    typed and checked both in a recipe and from Python.

    Attributes:
        name: what this instance is called in losses, logs and the checkpoint; the plugin's kind when left empty.
    """

    before: ClassVar[tuple[str, ...]] = ()
    """Kinds that this plugin's hooks run before, whatever the list says; kinds that are not active don't matter."""
    after: ClassVar[tuple[str, ...]] = ()
    """Kinds that this plugin's hooks run after."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Capabilities that must be there: ``links``, ``teacher``, ``live teacher`` (one that ``step.forward`` can call), ``targets: classes`` (``step.targets`` are class indices (B,)), a plugin's kind; ``inputs``, ``targets`` or ``ids``: as the data gives them, replaced by no plugin."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Capabilities that this plugin brings for others."""
    conflicts: ClassVar[tuple[str, ...]] = ()
    """Kinds or capabilities that cannot be active together with this plugin; ``live teacher``: plugins that require one."""
    changes: ClassVar[tuple[str, ...]] = ()
    """What ``prepare_batch`` replaces in a step: ``inputs``, ``targets``, ``ids``."""
    engine: ClassVar[str] = ""
    """Versions of the contract (``stillhouse.contract.VERSION``) that it works with, as in a requirement: ``>=1,<3``. Empty: any.

    Which versions of the distribution ``stillhouse`` it needs, its own distribution's dependencies say."""
    shorthand: ClassVar[str] = "kind"
    """The option that ``--plugins projector=linear`` sets."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Options, as a recipe has them, that the conformance kit tries it with: :class:`stillhouse.testing.SmallNet` has the layers."""

    name: str = ""

    def hears(self, hook: str) -> bool:
        """Whether to call ``hook``, with the options as they are: asked once, so that one without work costs a step nothing."""
        return True


_TUPLES = ("before", "after", "requires", "provides", "conflicts", "changes")
_CLASS_VARIABLES = frozenset(name for name, kind in inspect.get_annotations(Plugin).items() if "ClassVar" in str(kind))


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False, field_specifiers=(attrs.field,))
def plugin(cls: C) -> C:
    """Make a subclass of :class:`Plugin` a frozen attrs class of strictly typed options, and check it.

    Refused, because attrs and pluggy would let it pass in silence: a hook's name without ``@hookimpl``, a hook that
    does not exist, arguments a hook does not have, an option without annotation, an annotated class variable, an
    annotation that cannot be resolved, ``tryfirst``/``trylast``, wrappers elsewhere than on ``teacher_forward``, and
    ``losses`` without a ``weight`` option (or the reverse).

    Raises:
        StillhouseError: with every fault of the class.
    """
    where = f"plugin class {cls.__name__}"
    if not (inspect.isclass(cls) and issubclass(cls, Plugin)):
        raise StillhouseError("@plugin is for subclasses of stillhouse.Plugin", where=where)
    annotations = inspect.get_annotations(cls)
    raise_faults(Fault(where, what, hint) for what, hint in _class_faults(cls, annotations))
    made = attrs.frozen(kw_only=True, eq=False, field_transformer=strict_fields)(cls)
    hooks = {n for n in dir(made) if hasattr(getattr(made, n, None), _IMPL)}
    options = option_names(made)
    if "losses" in hooks and "weight" not in options:
        raise StillhouseError(
            "a plugin that gives losses needs the option 'weight'",
            where=where,
            hint="add `weight: Weight = 1.0` (from stillhouse import Weight)",
        )
    if "weight" in options and "losses" not in hooks:
        raise StillhouseError("'weight' scales losses, and this plugin gives none", where=where)
    if made.changes and "prepare_batch" not in hooks:
        raise StillhouseError(
            "changes says what prepare_batch replaces, and this plugin has no such hook",
            where=where,
            hint="add `def prepare_batch(self, step):`, or leave out changes",
        )
    return made


def option_names(cls: type[Plugin]) -> list[str]:
    """The options of a plugin class, ``name`` among them, in the order of their declaration."""
    fields: Any = attrs.fields(cast("Any", cls))
    return [field.name for field in fields]


def renamed(instance: P, name: str) -> P:
    """The same options under another ``name``."""
    made: P = attrs.evolve(cast("Any", instance), name=name)
    return made


def _class_faults(cls: type[Plugin], annotations: dict[str, Any]) -> list[tuple[str, str]]:
    hooks = hook_arguments()
    found = _variable_faults(cls)
    for name, kind in annotations.items():
        if name in _CLASS_VARIABLES and "ClassVar" not in str(kind):
            found.append((f"{name!r} is a class variable and is annotated like an option", f"write `{name} = ...`"))
        elif name in hooks:
            found.append((f"the option {name!r} would hide the hook of that name", "choose another name"))
    try:
        typing.get_type_hints(cls)
    except Exception as error:  # noqa: BLE001 - evaluating an annotation can raise anything
        found.append(
            (f"an annotation cannot be resolved: {error}", "import its names at run time, not for type checkers only")
        )
    for name, value in vars(cls).items():
        if name.startswith("__"):
            continue
        function = inspect.unwrap(value) if callable(value) else value
        options = getattr(value, _IMPL, None)
        if options is not None:
            found += _hook_faults(name, value, options, hooks)
        elif name in hooks:
            found.append((f"{name!r} is a hook's name, without @hookimpl", "decorate it with @hookimpl"))
        elif inspect.isfunction(function) and not name.startswith("_"):
            near = did_you_mean(name, hooks, 1).split("'")
            arguments = set(inspect.signature(function).parameters) - {"self"}
            if len(near) == 3 and arguments and arguments <= set(hooks[near[1]]):
                found.append(
                    (
                        f"the method {name!r} looks like the hook {near[1]!r}, misspelt and without @hookimpl",
                        "correct it, or begin a helper's name with an underscore",
                    )
                )
        elif (
            not name.startswith("_")
            and name not in {*annotations, *_CLASS_VARIABLES}
            and not callable(value)
            and not isinstance(value, property | classmethod | staticmethod)
        ):
            more = f"; {like}" if (like := did_you_mean(name, _CLASS_VARIABLES, 1)).startswith("did") else ""
            found.append((f"the option {name!r} has no annotation", f"write `{name}: TYPE = ...`{more}"))
    return found


def _variable_faults(cls: type[Plugin]) -> list[tuple[str, str]]:
    found = []
    for name in _TUPLES:
        value = getattr(cls, name)
        if isinstance(value, str):
            found.append((f"{name} must be a tuple of names, got the text {value!r}", f"write `{name} = ({value!r},)`"))
        elif not (isinstance(value, tuple) and all(isinstance(item, str) for item in value)):
            listed = ", ".join(repr(str(item)) for item in value) if isinstance(value, Iterable) else repr(str(value))
            found.append((f"{name} must be a tuple of names, got {value!r}", f"write `{name} = ({listed},)`"))
    strange = [name for name in cls.changes if isinstance(cls.changes, tuple) and name not in CHANGEABLE]
    if strange:
        found.append((f"changes names {strange[0]!r}", f"prepare_batch may replace {', '.join(CHANGEABLE)}"))
    for name in ("engine", "shorthand"):
        value = getattr(cls, name)
        if not isinstance(value, str):
            found.append((f"{name} must be text, got {value!r}", f"write `{name} = {str(value)!r}`"))
    if isinstance(cls.engine, str) and not _is_specifier(cls.engine):
        found.append((f"engine must be a version specifier, got {cls.engine!r}", "write `engine = '>=1,<2'`"))
    return found


def _is_specifier(text: str) -> bool:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def _hook_faults(
    name: str, function: Callable[..., Any], options: dict[str, Any], hooks: dict[str, tuple[str, ...]]
) -> list[tuple[str, str]]:
    if name not in hooks and not options.get("specname"):
        return [(f"unknown hook {name!r}", did_you_mean(name, hooks))]
    if options.get("specname"):
        return [(f"the hook {name!r} uses specname", "name the method as the hook")]
    found = []
    given = list(inspect.signature(function).parameters)
    unknown = [a for a in given if a != "self" and a not in hooks[name]]
    twin = _TWINS.get(unknown[0]) if unknown else None
    if twin is not None and twin in hooks[name]:
        line = f"def {name}({', '.join(twin if a == unknown[0] else a for a in given)}):"
        found.append((f"the hook {name!r} has no argument {unknown[0]!r}", f"write `{line}`: {_TIMES[twin]}"))
    elif unknown:
        takes = ", ".join(hooks[name])
        found.append((f"the hook {name!r} has no argument {unknown[0]!r}", f"it offers: {takes}"))
    if options.get("tryfirst") or options.get("trylast"):
        found.append((f"the hook {name!r} asks for tryfirst or trylast", "order plugins with `before` and `after`"))
    if (options.get("wrapper") or options.get("hookwrapper")) and name != "teacher_forward":
        found.append((f"the hook {name!r} is a wrapper", "only teacher_forward can be wrapped"))
    if options.get("hookwrapper"):
        found.append((f"the hook {name!r} is an old-style hookwrapper", "write @hookimpl(wrapper=True)"))
    return found
