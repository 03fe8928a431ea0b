"""Pairs of layers of the option ``links``: globs resolved, sides matched, names made unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

from stillhouse import Fault, StillhouseError
from stillhouse.contract.assembly import Assembly
from stillhouse.errors import raise_faults
from stillhouse_features.options import LinkOptions

__all__ = ["Pair", "resolve_links"]


@attrs.frozen(kw_only=True)
class Pair:
    """One link to be: its name within the plugin, its two layers and its options."""

    name: str
    student: str
    teacher: str
    options: LinkOptions


def resolve_links(assembly: Assembly, links: Sequence[LinkOptions]) -> list[Pair]:
    """The pairs of layers that ``links`` mean in the run's models.

    A link is named as its options say, else after the student's layer, else ``student-teacher`` where a student's
    layer is in several links.

    Raises:
        StillhouseError: with every fault of every link: layers that are not there, sides that match different
            numbers of layers, two links of one name.
    """
    faults: list[Fault] = []
    matched: list[tuple[int, str, str, int]] = []
    for index, link in enumerate(links):
        sides: list[list[str]] = []
        for which, pattern in (("student", link.student), ("teacher", link.teacher)):
            try:
                sides.append(assembly.layers("student" if which == "student" else "teacher", pattern))
            except StillhouseError as error:
                faults += error.within(f"links[{index}].{which}").faults
        if len(sides) < 2:
            continue
        students, teachers = sides
        if len(students) != len(teachers):
            faults.append(
                Fault(
                    f"links[{index}]",
                    f"both sides must match as many layers, got student {link.student!r} with {_list_layers(students)} "
                    f"and teacher {link.teacher!r} with {_list_layers(teachers)}",
                    "layers pair in order: narrow a glob, or give one link per pair",
                )
            )
            continue
        matched += [(index, s, t, len(students)) for s, t in zip(students, teachers, strict=True)]
    raise_faults(faults)
    uses = Counter(s for index, s, _, _ in matched if not links[index].name)
    pairs = []
    for index, student, teacher, count in matched:
        # The empty path is the whole model.
        name, s, t = links[index].name, student or "model", teacher or "model"
        if not name:
            name = f"{s}-{t}" if uses[student] > 1 else s
        elif count > 1:
            name = f"{name}-{s}"
        pairs.append(Pair(name=name, student=student, teacher=teacher, options=links[index]))
        if [p.name for p in pairs].count(name) == 2:
            faults.append(
                Fault(f"links[{index}].name", f"must be unique, got {name!r} twice", "give one of them another `name`")
            )
    raise_faults(faults)
    return pairs


def _list_layers(layers: Sequence[str]) -> str:
    shown = ", ".join(layers[:6]) + (", ..." if len(layers) > 6 else "")
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'} ({shown})"
