"""The catalogue of data sets: ``[data] name`` to a source that a distribution brings, or to a callable's data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from stillhouse.config.data import DataSpec
from stillhouse.config.references import import_object
from stillhouse.config.signatures import call
from stillhouse.data.given import Given
from stillhouse.data.imagefolder import ImageFolder
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.openers import divide_arguments
from stillhouse.data.sources import Source, SourceRequest
from stillhouse.data.splits import split_by_blocks
from stillhouse.data.unlabelled import JoinedSource
from stillhouse.entries import DATA, Installed, error_text, find_scheme, installed, load_entry, nearest
from stillhouse.errors import Fault, StillhouseError

__all__ = ["load_opener", "open_source", "open_sources"]

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


def open_sources(spec: DataSpec, base: Path | None, given: Given | None = None) -> Source:
    """Open the sources of ``spec``: the labelled samples, split as it says, and behind them the unlabelled ones.

    Args:
        spec: the recipe's ``[data]``.
        base: the recipe's folder.
        given: what Python has handed over in the place of the labelled samples.

    Raises:
        StillhouseError: as :func:`open_source`; or blocks of an image folder.
    """
    fraction = spec.val_fraction if spec.split is None else 0.0
    source = open_source(spec.name, SourceRequest(spec.args, fraction, base, spec.skip_bad, spec.background), given)
    if spec.split is not None:
        if isinstance(source, ImageFolder):
            raise StillhouseError(
                "blocks of an image folder would hold out whole classes", where="data.split", hint="leave it out"
            )
        source.splits = split_by_blocks(source.splits, spec.split, spec.val_fraction)
    if spec.unlabelled is None:
        return source
    try:
        request = SourceRequest(spec.unlabelled_args, 0.0, base, spec.skip_bad, spec.background)
        return JoinedSource(source, open_source(spec.unlabelled, request))
    except StillhouseError as error:
        raise StillhouseError(
            faults=[attrs.evolve(fault, where=_rename_key(fault.where)) for fault in error.faults]
        ) from error


def _rename_key(where: str) -> str:
    """The key of the unlabelled samples that is as ``where``, which a source names, is of the labelled ones."""
    if where == "data.name":
        return "data.unlabelled"
    return where.replace("data.args", "data.unlabelled_args", 1) if where.startswith("data.args") else where


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
