"""What is said when something is wrong: one kind of error, made of faults that each name their place.

A fault tells what is wrong, where (file, key, plugin, layer, shape) and what would be right. Faults are gathered
and raised together, once per stage: the file, then the plugins, then the layers, then the shapes. The command line
prints them and exits with code 2; from Python they arrive as one :class:`StillhouseError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import attrs

__all__ = ["Fault", "StillhouseError", "StillhouseWarning", "did_you_mean", "first_line", "raise_faults"]


def first_line(error: BaseException | str) -> str:
    """The first line of a message that says something, with the next one where it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "" if isinstance(error, str) else type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        return f"{lines[0]} {lines[1]}"
    return lines[0]


@attrs.frozen
class Fault:
    """One thing that is wrong.

    Attributes:
        where: the place: a key path (``plugins[1].kind``), a file, ``plugin 'projector', link 'features/stage3'``.
        what: what is wrong there, in one sentence.
        hint: what would be right; empty when the sentence says it already.
    """

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class StillhouseError(Exception):
    """Bad input, described by one or more :class:`Fault`; the command line exits with code 2 and no traceback.

    Args:
        what: the sentence, when there is one fault only.
        where: its place.
        hint: what would be right.
        faults: all faults, instead of the three above.
    """

    exit_code = 2

    def __init__(self, what: str = "", *, where: str = "", hint: str = "", faults: Iterable[Fault] = ()) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults) or (Fault(where, what, hint),)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def within(self, where: str) -> StillhouseError:
        """The same error with every fault's place prefixed by ``where``."""
        return type(self)(
            faults=[attrs.evolve(f, where=f"{where}: {f.where}" if f.where else where) for f in self.faults]
        )


class StillhouseWarning(UserWarning):
    """Something that is allowed and probably not meant: a version that changed, an option without effect."""


def raise_faults(faults: Iterable[Fault]) -> None:
    """Raise all ``faults`` as one :class:`StillhouseError`; do nothing when there are none."""
    found = list(dict.fromkeys(faults))
    if found:
        raise StillhouseError(faults=found)


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """``did you mean 'a' or 'b'?`` from the known names nearest to ``name``, or the list of all when few and none is near."""
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
