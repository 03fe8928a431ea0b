"""The catalogue of data sets: ``[data] name`` to a source that a distribution brings, or to a callable's data set."""

from __future__ import annotations

from collections.abc import Callable

from stillhouse.config.references import import_object
from stillhouse.config.signatures import call
from stillhouse.data.given import Given
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.openers import divide_arguments
from stillhouse.data.sources import Source, SourceRequest
from stillhouse.entries import DATA, Installed, error_text, find_scheme, installed, load_entry, nearest
from stillhouse.errors import Fault, StillhouseError

__all__ = ["load_opener", "open_source"]

Opener = Callable[[str, SourceRequest], Source]
"""The type of an entry point's object in the group ``stillhouse.data``: opens a data set by the name after the colon."""


def open_source(name: str, request: SourceRequest, given: Given | None = None) -> Source:
    """Open the source of a recipe's ``name``, or what Python has handed over in its place, as is asked of it.

    Raises:
        StillhouseError: no such data set, or one that cannot be used; what, where, what would be right.
    """
    if given is not None:
        return given.open(name, request)
    where = "data.name"
    named = find_scheme(DATA, name, where)
    if named is not None:
        found, rest = named
        opener = load_opener(found, where)
        try:
            source = opener(rest, request)
        except StillhouseError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{name!r} cannot be opened: {error_text(error)}"
            raise StillhouseError(what, where=where, hint=f"from {found.origin}") from error
        if not isinstance(source, Source):
            what = f"{name!r} must give a stillhouse.data.Source, got {type(source).__name__}"
            raise StillhouseError(what, where=where, hint=f"from {found.origin}")
        return source
    near = nearest(DATA, name)
    if not all(name.partition(":")):
        forms = ", ".join(dict.fromkeys(f"{found.use}:NAME" for found in installed(DATA)))
        hint = f"{near} a data set is {forms} or package.module:callable".strip()
        raise StillhouseError(f"no installed data set is called {name!r}", where=where, hint=hint)
    try:
        function = import_object(name, where, request.base, DATA)
    except StillhouseError as error:
        if not near:
            raise
        raise StillhouseError(
            faults=[*error.faults, Fault(where, f"no installed data set is called {name!r}", near)]
        ) from None
    if not callable(function):
        raise StillhouseError(f"{name!r} must be callable, got {type(function).__name__}", where=where)
    own, described = divide_arguments(function, request.args)
    return DatasetSource(
        call(function, own, "data.args"),
        name,
        request.val_fraction,
        described=described,
        skip_bad=request.skip_bad,
        background=request.background,
    )


def load_opener(found: Installed, where: str = "") -> Opener:
    """Import the opener of a distribution's data sets.

    Raises:
        StillhouseError: it is broken.
    """
    opener: Opener = load_entry(found, DATA, where)
    if not callable(opener):
        what = f"{found.target!r} must be a function of a name and a SourceRequest, got {type(opener).__name__}"
        raise StillhouseError(what, where=where, hint=f"from {found.origin}")
    return opener
