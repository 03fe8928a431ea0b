"""The order of plugins: the list's, corrected by ``before`` and ``after``; the same list gives the same order, with its reasons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs

from stillhouse.config.structure import unstructure
from stillhouse.contract.plugin import CHANGEABLE, Plugin
from stillhouse.errors import Fault, StillhouseError, did_you_mean

__all__ = ["CACHES_TEACHER", "CLASSES", "ENGINE_CAPABILITIES", "Active", "check_needs", "order"]

ENGINE_CAPABILITIES = ("teacher", "live teacher")
"""Needs that a run with a teacher meets, whatever its plugins are."""

CLASSES = "targets: classes"
"""What a plugin requires that reads ``step.targets`` as class indices (B,), int64."""

CACHES_TEACHER = "teacher cache"
"""What a plugin ``provides`` that remembers the teacher's answers by the samples' ids."""


@attrs.frozen(eq=False)
class Active:
    """A plugin that takes part in a run.

    Attributes:
        plugin: the instance; its ``name`` is filled in.
        use: its kind: the entry point's name.
        listed: its place in the recipe's list, from 0.
        distribution: what installed it, and ``version``; empty for a class handed over from Python.
        reason: why it stands where it does, once ordered.
        named: what a recipe calls it where ``use`` is not enough: ``DISTRIBUTION:NAME``.
    """

    plugin: Plugin
    use: str
    listed: int
    distribution: str = ""
    version: str = ""
    reason: str = ""
    named: str = ""

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.plugin.name

    @property
    def table(self) -> dict[str, Any]:
        """The recipe's table that makes it again."""
        return {"use": self.named or self.use, **unstructure(self.plugin)}

    def answers_to(self, kind: str) -> bool:
        """Whether ``kind`` in somebody's ``before``, ``after`` or ``conflicts`` means this plugin."""
        return kind in (self.use, self.name)


def order(actives: Sequence[Active]) -> list[Active]:
    """Sort by the list, moving a plugin back only as far as ``before``, ``after`` and ``requires`` demand.

    Raises:
        StillhouseError: the demands form a cycle; it is spelled out.
    """
    reasons: dict[tuple[int, int], str] = {}
    for i, one in enumerate(actives):
        for j, other in enumerate(actives):
            if i == j:
                continue
            if any(other.answers_to(kind) for kind in one.plugin.before):
                reasons[i, j] = f"{one.name} declares before = {other.use}"
            if any(other.answers_to(kind) for kind in one.plugin.after):
                reasons[j, i] = f"{one.name} declares after = {other.use}"
        reasons |= _providers_first(actives, i)
    remaining, result = list(range(len(actives))), []
    while remaining:
        free = [i for i in remaining if not any((j, i) in reasons for j in remaining)]
        if not free:
            raise StillhouseError(
                "these plugins cannot be put in order: " + _cycle(actives, reasons, remaining),
                where="plugins",
                hint="leave one of them out",
            )
        result.append(free[0])
        remaining.remove(free[0])
    return [attrs.evolve(actives[i], reason=_reason(actives, reasons, i, place)) for place, i in enumerate(result)]


def _providers_first(actives: Sequence[Active], i: int) -> dict[tuple[int, int], str]:
    """A plugin that requires a capability and is listed before all that provide it comes after them."""
    demands: dict[tuple[int, int], str] = {}
    for need in actives[i].plugin.requires:
        providers = [j for j, other in enumerate(actives) if j != i and need in other.plugin.provides]
        if providers and min(providers) > i:
            demands |= {
                (j, i): f"{actives[i].name} requires {need}, which {actives[j].name} provides" for j in providers
            }
    return demands


def _reason(actives: Sequence[Active], reasons: dict[tuple[int, int], str], i: int, place: int) -> str:
    moved = [text for (a, b), text in sorted(reasons.items()) if b == i and a > i]
    kept = [text for (a, b), text in sorted(reasons.items()) if b == i and a < i]
    if moved:
        return f"listed as number {i + 1}, moved: " + "; ".join(moved)
    if i == place:
        return f"listed as number {i + 1}" + (f" ({'; '.join(kept)}: holds)" if kept else "")
    return f"listed as number {i + 1}, now {place + 1} because others moved"


def _cycle(actives: Sequence[Active], reasons: dict[tuple[int, int], str], remaining: list[int]) -> str:
    here, seen = remaining[0], list[int]()
    while here not in seen:
        seen.append(here)
        here = next(j for j in remaining if (j, here) in reasons)
    loop = [*seen[seen.index(here) :], here][::-1]
    return ", ".join(
        f"{actives[a].name} before {actives[b].name} ({reasons[a, b]})" for a, b in itertools.pairwise(loop)
    )


def check_needs(actives: Sequence[Active], *, has_teacher: bool) -> list[Fault]:
    """Faults of ``requires`` and ``conflicts`` over the whole list."""
    faults = []
    provided = set(ENGINE_CAPABILITIES) if has_teacher else set()
    for active in actives:
        provided |= {active.use, active.name, *active.plugin.provides}
    for active in actives:
        where = f"plugins[{active.listed}] ({active.name})"
        for need in active.plugin.requires:
            if need in provided or need == CLASSES or need in CHANGEABLE:
                continue  # what the targets are, the first batch shows
            if need in ENGINE_CAPABILITIES:
                faults.append(Fault(where, "needs a teacher, and the run has none", "add a [teacher] table"))
            else:
                near = did_you_mean(need, {"links", CLASSES, *ENGINE_CAPABILITIES, *CHANGEABLE, *provided}, 1)
                hint = near if near.startswith("did") else f"add a plugin that provides {need!r}"
                hint = 'add { use = "features", ... }' if need == "links" else hint
                faults.append(Fault(where, f"needs {need!r}, which no active plugin provides", hint))
        faults += _find_replaced(active, actives)
        for kind in active.plugin.conflicts:
            others = [o for o in actives if o is not active]
            against = [(o, "") for o in others if o.answers_to(kind) or kind in o.plugin.provides]
            if kind in ENGINE_CAPABILITIES:  # the run provides it: against it is against whoever counts on it
                against += [(o, f", which requires a {kind}") for o in others if kind in o.plugin.requires]
            faults += [
                Fault(where, f"cannot be active together with {other.name!r}{why}", "leave one out")
                for other, why in against
            ]
    return faults


def _find_replaced(active: Active, actives: Sequence[Active]) -> list[Fault]:
    """Faults of a plugin that needs parts of the batch as the data gives them, beside plugins that replace these."""
    cached = CACHES_TEACHER in active.plugin.provides
    needs = [
        (name, "remembers the teacher's answers by sample" if cached else f"requires the {name} that the data gives")
        for name in CHANGEABLE
        if name in active.plugin.requires or (cached and name != "targets")
    ]
    return [
        Fault(
            f"plugins[{active.listed}] ({active.name})",
            f"{why}, and the plugin {other.name!r} changes the {name} in prepare_batch",
            "leave one out",
        )
        for name, why in needs
        for other in actives
        if other is not active and name in other.plugin.changes
    ]
