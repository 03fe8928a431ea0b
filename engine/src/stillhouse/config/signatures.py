"""Calls of a recipe's callables with its ``args``, checked against their signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.error import URLError

import attrs

from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["call", "check_arguments", "read_parameters"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_LONGEST = 600
"""Characters of an error that are shown: some print the whole tensor that they are about."""
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def read_parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that ``function`` takes by name, and whether it takes others too (``**kwargs``)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in C, without a signature
        return {}, True
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {p.name: p for p in parameters if p.kind in _NAMED}, open_ended


def check_arguments(function: Callable[..., Any], args: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that ``function`` does not take, and missing ones.

    Args:
        function: the callable.
        args: the arguments by name.
        where: the key path of ``args``, such as ``data.args``.

    Raises:
        StillhouseError: a fault at ``where.KEY`` for each unknown and each missing argument.
    """
    parameters, open_ended = read_parameters(function)
    faults = []
    if not open_ended:
        faults += [_make_unknown_fault(key, list(parameters), where) for key in args if key not in parameters]
    faults += [
        Fault(f"{where}.{name}", f"missing argument {name!r} of {_get_name(function)}")
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in args
    ]
    raise_faults(faults)


def call(function: Callable[..., Any], args: Mapping[str, Any], where: str, known: Collection[str] = ()) -> Any:
    """Call ``function(**args)``; an exception in it becomes a StillhouseError.

    Args:
        function: the callable.
        args: its arguments by name.
        where: the key path of ``args``.
        known: the arguments it takes by name, where its signature is open (``**kwargs``).

    Raises:
        StillhouseError: see :func:`check_arguments`; or the call failed, with its error in the message. A
            StillhouseError that it raises about an argument gets that argument's place.
    """
    check_arguments(function, args, where)
    try:
        return function(**args)
    except StillhouseError as error:
        named = known or read_parameters(function)[0]
        raise StillhouseError(
            faults=[attrs.evolve(f, where=f"{where}.{f.where}") if f.where in named else f for f in error.faults]
        ) from None
    except (Exception, SystemExit) as error:  # sys.exit, called by a recipe, would end the run without a word
        unexpected = _UNEXPECTED.search(str(error))
        if isinstance(error, TypeError) and unexpected and unexpected[1] in args:
            known = list(known or read_parameters(function)[0])
            raise StillhouseError(faults=[_make_unknown_fault(unexpected[1], known, where)]) from error
        hint = "no connection for a download: give a local source"
        raise StillhouseError(
            f"calling {_get_name(function)} failed: {type(error).__name__}: {_shorten(error)}",
            where=where,
            hint=hint if isinstance(error, URLError) else "",
        ) from error


def _make_unknown_fault(key: str, known: Collection[str], where: str) -> Fault:
    near = did_you_mean(key, known)
    takes = "it takes " + ", ".join(repr(n) for n in known) if known else "it takes no arguments"
    hint = f"{near} {takes}" if near.startswith("did you mean") else takes
    return Fault(f"{where}.{key}", f"unknown argument {key!r}", hint)


def _shorten(error: BaseException) -> str:
    text = str(error)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _get_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
