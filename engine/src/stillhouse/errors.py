"""Errors for bad input: one exception, made of faults that each name what is wrong, where, and a hint.

Faults are collected and raised together, once per stage: the file, then the plugins, then the layers, then the shapes.
The command line prints them and exits with code 2; from Python they arrive as one :class:`StillhouseError`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

import attrs

__all__ = [
    "DeprecatedNameWarning",
    "Fault",
    "StillhouseError",
    "StillhouseWarning",
    "UnknownKindWarning",
    "did_you_mean",
    "first_line",
    "raise_faults",
    "warn_deprecated",
]


_LONGEST = 4_000
"""Characters that a fault is shown with; somebody's value may have any number of them."""


def first_line(error: BaseException | str) -> str:
    """Return a message's first line that is not blank, joined with the next one where it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "" if isinstance(error, str) else type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        return f"{lines[0]} {lines[1]}"
    return lines[0]


@attrs.frozen
class Fault:
    """One fault of the input.

    Attributes:
        where: the place: a key path (``plugins[1].kind``), a file, ``plugin 'projector', link 'features/stage3'``.
        what: the fault in one sentence: key, rule and value (``must be in [0, 1), got 1.0``).
        hint: a way to mend it; empty when the rule says it already.
    """

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text} ({self.hint})" if self.hint else text
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} ... {text[-400:]}"


class StillhouseError(Exception):
    """Bad input, described by one or more :class:`Fault`; the command line exits with code 2 and no traceback.

    Args:
        what: the sentence of a single fault.
        where: its place.
        hint: a way to mend it.
        faults: all faults, instead of the three above.
    """

    exit_code = 2

    def __init__(self, what: str = "", *, where: str = "", hint: str = "", faults: Iterable[Fault] = ()) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults) or (Fault(where, what, hint),)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def within(self, where: str) -> StillhouseError:
        """Return the same error with every fault's place prefixed by ``where``."""
        return type(self)(
            faults=[attrs.evolve(f, where=f"{where}: {f.where}" if f.where else where) for f in self.faults]
        )


class StillhouseWarning(UserWarning):
    """Allowed, but probably not meant: a version that changed, an option without effect."""


class UnknownKindWarning(StillhouseWarning):
    """A plugin names a kind that is not installed, and that is spelt nearly as one that is."""


class DeprecatedNameWarning(StillhouseWarning):
    """A public name that still works and goes with the next minor version."""


def warn_deprecated(old: str, new: str, gone_in: str, *, stacklevel: int = 3) -> None:
    """Warn whoever uses the public name ``old`` that it is ``new`` now; what still answers to it calls this.

    A name answers for one minor version after it was renamed: :mod:`stillhouse.testing` reports its uses to authors.

    Args:
        old: as it is written: ``run.settle``.
        new: what to write instead.
        gone_in: the release that no longer has it.
        stacklevel: of the line that uses it, as :func:`warnings.warn` counts from here.
    """
    text = f"{old} is deprecated, and gone in stillhouse {gone_in}: write {new}"
    warnings.warn(text, DeprecatedNameWarning, stacklevel=stacklevel)


def raise_faults(faults: Iterable[Fault]) -> None:
    """Raise all ``faults`` as one :class:`StillhouseError`; do nothing when there are none."""
    found = list(dict.fromkeys(faults))
    if found:
        raise StillhouseError(faults=found)


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``did you mean 'a' or 'b'?`` with the known names nearest to ``name``; without a near one, the first known names."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    if not near:
        tail = name.rsplit(".", 1)[-1]
        near = [n for n in names if n.rsplit(".", 1)[-1] == tail][:limit]
    if not near and len(name) > 3:
        near = [n for n in names if n.startswith(name[:4])][:limit]
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not names:
        return ""
    shown = ", ".join(repr(n) for n in names[:8])
    return f"known: {shown}" + (", ..." if len(names) > 8 else "")
