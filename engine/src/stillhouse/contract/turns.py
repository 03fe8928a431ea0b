"""Whose turn it is in a step of training, and what that hook may write there: for the loop, not for plugins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stillhouse.contract.sealed import check_replacement, put, refuse
from stillhouse.contract.step import Link, SealedLink, Side, Step
from stillhouse.errors import StillhouseError

__all__ = ["SealedStep", "add_links", "enter"]


class SealedStep(Step):
    """A step in which hooks write only what is theirs. Made open, it costs what any object does: its class is put there after."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.writable:
            refuse(f"step.{name}")
        if name == "teacher":
            if not isinstance(value, Side):
                raise StillhouseError(
                    f"must be a Side, got {type(value).__name__}",
                    where="step.teacher",
                    hint="step.teacher = Side(output, features)",
                )
        else:
            check_replacement(name, value, getattr(self, name), len(self.ids))
        put(self, name, value)

    def __delattr__(self, name: str) -> None:
        refuse(f"step.{name}")


def add_links(step: Step, links: Iterable[Link]) -> None:
    """Put ``links`` among those of ``step``, sealed unless it is the turn of ``transform``."""
    kind = Link if step.phase == "transform" else SealedLink
    for link in links:
        link.__class__ = kind
        dict.__setitem__(step.links, link.name, link)


def enter(step: Step, phase: str, writable: tuple[str, ...] = ()) -> None:
    """Begin the turn of the hook ``phase``, which may replace the attributes ``writable``; empty: nobody's.

    Links can be written in ``transform`` alone.
    """
    if phase == "transform":
        for link in step.links.values():
            put(link, "__class__", Link)
    elif step.phase == "transform":
        for link in step.links.values():
            put(link, "__class__", SealedLink)
    put(step, "phase", phase)
    put(step, "writable", writable)
