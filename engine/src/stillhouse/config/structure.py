"""Conversion of plain data (TOML tables, keyword arguments) to typed attrs objects: strict, every fault with its path.

cattrs does the structuring. Added here: no coercion ("no" is not True, 3.7 is not 3), and one walk over cattrs'
exception group that turns it into faults.
"""

from __future__ import annotations

import collections.abc
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["describe_type", "structure", "unstructure"]

T = TypeVar("T")


class _WrongError(Exception):
    """A value of the wrong type or range, with its message and hint."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what, self.hint = what, hint
        super().__init__(what)


def describe_type(kind: Any) -> str:
    """Describe a type for a recipe's reader: ``text``, ``a whole number``, ``one of 'a', 'b'``."""
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe_type(a) for a in get_args(kind) if a is not type(None))
    if get_origin(kind) in (tuple, list):
        inner = [a for a in get_args(kind) if a is not Ellipsis]
        if get_origin(kind) is tuple and inner and Ellipsis not in get_args(kind):
            return "a list of " + str(len(inner)) + " (" + ", ".join(describe_type(a) for a in inner) + ")"
        return "a list of " + (describe_type(inner[0]) if inner else "anything")
    if get_origin(kind) in (dict, collections.abc.Mapping):
        return "a table"
    if attrs.has(kind):
        return "a table with " + ", ".join(a.name for a in attrs.fields(kind) if a.init)
    return getattr(kind, "__name__", str(kind))


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _make_type_error(value: Any, kind: Any) -> _WrongError:
    return _WrongError(f"must be {describe_type(kind)}, got {_shorten(value)}")


def _make_strict_hook(kind: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if kind is float and type(value) is int:
            return float(value)  # TOML writes 1 for 1.0: the one widening that loses nothing
        if type(value) is not kind:
            raise _make_type_error(value, kind)
        return value

    return hook


def _structure_literal(value: Any, kind: Any) -> Any:
    for allowed in get_args(kind):
        if type(value) is type(allowed) and value == allowed:
            return value
    if isinstance(value, str):
        names = [a for a in get_args(kind) if isinstance(a, str)]
        near = did_you_mean(value, names, 1)
        what = f"must be one of {', '.join(map(repr, names))}, got {_shorten(value)}"
        raise _WrongError(what, near if near.startswith("did you mean") else "")
    raise _make_type_error(value, kind)


def _structure_union(value: Any, kind: Any) -> Any:
    members = get_args(kind)
    if value is None and type(None) in members:
        return None
    # A table can only be meant as the member that is made from one: its own faults say more than "none fits".
    if isinstance(value, Mapping):
        tables = [m for m in members if attrs.has(m)]
        if len(tables) == 1:
            return _converter.structure(value, tables[0])
    for member in members:
        if member is type(None):
            continue
        try:
            return _converter.structure(value, member)
        except Exception:  # noqa: BLE001, S112 - whatever a member's hook raises, the next member may fit
            continue
    raise _make_type_error(value, kind)


def _make_attrs_hook(cls: type) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn

    inner: Callable[[Any, Any], Any] = make_dict_structure_fn(
        cls, _converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, _cattrs_use_alias=True
    )

    def hook(value: Any, kind: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise _make_type_error(value, cls)
        outside = list(_run_validators(cls, value))
        if not outside:
            return inner(value, kind)
        # attrs' own __init__ stops at the first of them, and is not reached where another key has a wrong type.
        others: list[Exception] = []
        try:
            inner(value, kind)
        except ClassValidationError as error:
            others = [e for e in error.exceptions if not isinstance(e, StillhouseError)]
        raise ClassValidationError(cls.__name__, [*others, *outside], cls)

    return hook


def _run_validators(cls: type, value: Mapping[str, Any]) -> Iterator[Exception]:
    """Run the validators of single keys on values of the right type, and yield their errors."""
    for attribute in attrs.fields(cls):
        if attribute.validator is None or attribute.alias not in value:
            continue
        try:
            given = _converter.structure(value[attribute.alias], attribute.type)
        except Exception:  # noqa: BLE001, S112 - whatever a hook raises, it is said of this key already
            continue
        try:
            attribute.validator(None, attribute, given)
        except StillhouseError as error:
            yield error


def _structure_sequence(value: Any, kind: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise _make_type_error(value, kind)
    inner = get_args(kind)
    if get_origin(kind) is tuple and inner and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _make_type_error(value, kind)
        members = list(inner)
    else:
        members = [inner[0] if inner else Any] * len(value)
    out, errors = [], []
    for index, (item, member) in enumerate(zip(value, members, strict=True)):
        try:
            out.append(_converter.structure(item, member))
        except Exception as error:  # noqa: BLE001 - gathered, with the place, and raised as one below
            error.__notes__ = [
                *getattr(error, "__notes__", []),
                IterableValidationNote(f"at index {index}", index, member),
            ]
            errors.append(error)
    if errors:
        raise IterableValidationError("list", errors, kind)
    return get_origin(kind)(out)


def _make_table_hook(kind: Any) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_mapping_structure_fn

    inner: Callable[[Any, Any], Any] = make_mapping_structure_fn(kind, _converter, detailed_validation=True)

    def hook(value: Any, wanted: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _make_type_error(value, wanted)
        return inner(value, wanted)

    return hook


def _origin(kind: Any) -> Any:
    return get_origin(kind)


_converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True, use_alias=True)
for _kind in (str, int, float, bool):
    _converter.register_structure_hook(_kind, _make_strict_hook(_kind))
_converter.register_structure_hook_func(lambda k: _origin(k) is Literal, _structure_literal)
_converter.register_structure_hook_func(lambda k: _origin(k) in (Union, types.UnionType), _structure_union)
_converter.register_structure_hook_func(lambda k: _origin(k) in (list, tuple), _structure_sequence)
_converter.register_structure_hook_factory(attrs.has, _make_attrs_hook)
_converter.register_structure_hook_factory(lambda k: _origin(k) in (dict, collections.abc.Mapping), _make_table_hook)


def structure(value: Any, kind: type[T] | Any, where: str = "") -> T:
    """Convert ``value`` (tables, lists, numbers, text) to an object of type ``kind``.

    Args:
        value: plain data, or an instance of an attrs class already.
        kind: an attrs class, Literal, union, tuple, list, dict or plain type.
        where: the key path that faults are prefixed with.

    Raises:
        StillhouseError: with one fault for each unknown key, missing key and wrong value, numbers that are not finite among
            them.
    """
    faults = [Fault(place, f"must be finite, got {number}") for place, number in _find_nonfinite(value, where)]
    places = [fault.where for fault in faults]
    try:
        result: T = _converter.structure(value, kind)
    except Exception as error:  # noqa: BLE001 - cattrs raises whatever a hook raises; all of it becomes faults
        faults += [fault for fault in _collect_faults(error, where, kind) if fault.where not in places]
    raise_faults(faults)
    return result


def _find_nonfinite(value: Any, where: str) -> Iterator[tuple[str, float]]:
    """The numbers of plain data that are not finite, with their places: no option means anything with one."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _find_nonfinite(inner, _join(where, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _find_nonfinite(inner, _join(where, f"[{index}]"))


def _join(where: str, part: str) -> str:
    return part if not where else where + part if part.startswith("[") else f"{where}.{part}"


def _collect_faults(error: BaseException, where: str, kind: Any) -> list[Fault]:
    if isinstance(error, ClassValidationError | IterableValidationError):
        found: list[Fault] = []
        for inner in error.exceptions:
            place, inner_kind = where, kind if isinstance(error, IterableValidationError) else error.cl
            for note in getattr(inner, "__notes__", []):
                if isinstance(note, AttributeValidationNote):
                    place = _join(where, _find_alias(error, note.name))
                elif isinstance(note, IterableValidationNote):
                    place = _join(where, note.index if isinstance(note.index, str) else f"[{note.index}]")
            found += _collect_faults(inner, place, inner_kind)
        return found
    if isinstance(error, ForbiddenExtraKeysError):
        known = [a.alias for a in attrs.fields(error.cl) if a.init]
        return [
            Fault(_join(where, key), f"unknown key {key!r}", did_you_mean(key, known))
            for key in sorted(error.extra_fields)
        ]
    if isinstance(error, StillhouseError):
        # The key that cattrs names and the one that the object's own check names are the same one: say it once.
        return [
            attrs.evolve(f, where=where if where.endswith(f.where) else _join(where, f.where)) for f in error.faults
        ]
    if isinstance(error, _WrongError):
        return [Fault(where, error.what, error.hint if error.hint not in error.what else "")]
    if isinstance(error, KeyError):
        key = str(error.args[0])
        place = where if where.split(".")[-1] == key else _join(where, key)
        return [Fault(place, "missing key")]
    return [Fault(where, f"{error}")]


def _find_alias(error: BaseException, name: str) -> str:
    cls = getattr(error, "cl", None)
    if cls is not None and attrs.has(cls):
        for attribute in attrs.fields(cls):
            if attribute.name == name:
                return str(attribute.alias)
    return name


def unstructure(value: Any) -> Any:
    """Convert an attrs object to plain data; keys whose value is None are left out, as TOML has no null."""
    if attrs.has(type(value)):
        return {
            a.alias: unstructure(getattr(value, a.name))
            for a in attrs.fields(type(value))
            if a.init and getattr(value, a.name) is not None
        }
    if isinstance(value, Mapping):
        return {k: unstructure(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [unstructure(v) for v in value]
    return value
