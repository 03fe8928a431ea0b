"""Main effects and two-way interactions of groups that are a full grid: of settings, or of plugins that are there or not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from stillhouse.experiments.choice import CHOSEN
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.settings import find_differing, flatten_settings
from stillhouse.experiments.statistics import Difference, holm, paired_difference
from stillhouse.experiments.tables import NOTHING

__all__ = ["Effect", "find_effects"]

Cell = tuple[str, ...]
"""A level of each factor."""


@attrs.frozen
class Effect:
    """The effect of one factor's level, or of two levels together.

    Attributes:
        name: ``projector.kind: orthogonal less linear``, ``with logits``; two of them with a times sign between.
        difference: its mean over the seeds with the interval; of an interaction, what the first level adds at the second
            level beyond what it adds without it.
        adjusted: the p value after Holm's correction for all effects of the grid.
    """

    name: str
    difference: Difference
    adjusted: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **attrs.asdict(self.difference), "p_adjusted": self.adjusted}


def find_effects(comparison: Comparison) -> list[Effect]:
    """The main effects, each level less the factor's first, and the interactions of each two such effects.

    A main effect is the mean over the cells of the other factors; all are paired by the seeds that every cell has.

    Returns:
        Main effects first; empty where the groups are no full grid of two factors or more, or have no seed in common.
    """
    factors, cells = _find_grid(comparison)
    seeds = sorted(set.intersection(*(set(values) for values in cells.values()))) if cells else []
    if not seeds:
        return []
    levels = [list(dict.fromkeys(cell[place] for cell in cells)) for place in range(len(factors))]
    main = [(place, level) for place, every in enumerate(levels) for level in every[1:]]

    def average(fixed: Mapping[int, str]) -> list[float]:
        """The mean of the cells with these levels, by seed."""
        chosen = [values for cell, values in cells.items() if all(cell[p] == level for p, level in fixed.items())]
        return [sum(values[seed] for values in chosen) / len(chosen) for seed in seeds]

    pairs = [(one, two) for one, two in itertools.combinations(main, 2) if one[0] != two[0]]
    tests = len(main) + len(pairs)
    found: list[tuple[str, Difference]] = []
    for p, level in main:
        first = levels[p][0]
        less = paired_difference(average({p: level}), average({p: first}), comparisons=tests)
        found.append((_name(factors[p], level, first), less))
    for (p, level), (q, other) in pairs:
        first, second = levels[p][0], levels[q][0]
        together = zip(average({p: level, q: other}), average({p: first, q: second}), strict=True)
        apart = zip(average({p: level, q: second}), average({p: first, q: other}), strict=True)
        name = f"{_name(factors[p], level, first)} × {_name(factors[q], other, second)}"  # noqa: RUF001 - a times sign
        found.append(
            (name, paired_difference([a + b for a, b in together], [a + b for a, b in apart], comparisons=tests))
        )
    adjusted = holm([difference.p for _, difference in found])
    return [Effect(name, difference, p) for (name, difference), p in zip(found, adjusted, strict=True)]


def _name(factor: str, level: str, first: str) -> str:
    return f"with {factor}" if (first, level) == (_WITHOUT, _WITH) else f"{factor}: {level} − {first}"  # noqa: RUF001 - a minus sign


_WITHOUT, _WITH = "off", "on"
"""Levels of a plugin that is there or not."""


def _find_grid(comparison: Comparison) -> tuple[list[str], dict[Cell, Mapping[int, float]]]:
    """The factors, and the values of every cell by seed; nothing where the groups are no full grid."""
    return _find_settings(comparison) or _find_switches(comparison) or ([], {})


def _find_settings(comparison: Comparison) -> tuple[list[str], dict[Cell, Mapping[int, float]]] | None:
    columns = [column for column in comparison.columns if column != CHOSEN]
    inside = [
        row.group
        for row in comparison.rows
        if columns and all(row.group.columns.get(column, NOTHING) != NOTHING for column in columns)
    ]
    varied = [column for column in columns if len({group.columns[column] for group in inside}) > 1]
    return _complete(varied, [(tuple(g.short.get(c, g.columns[c]) for c in varied), g.values) for g in inside])


def _find_switches(comparison: Comparison) -> tuple[list[str], dict[Cell, Mapping[int, float]]] | None:
    """Plugins that are there or not, where groups differ in nothing else."""
    recipes = [row.group.recipe for row in comparison.rows if row.group.recipe is not None]
    if len(recipes) < len(comparison.rows) or set(find_differing(list(map(flatten_settings, recipes)))) - {"plugins"}:
        return None
    lists = [_list_plugins(recipe.plugins) for recipe in recipes]
    together: dict[tuple[bool, ...], list[str]] = {}  # plugins that are always there together are one factor
    for name in dict.fromkeys(name for names in lists for name in names):
        together.setdefault(tuple(name in names for names in lists), []).append(name)
    varied = [" + ".join(names) for there, names in together.items() if not all(there)]
    patterns = [there for there in together if not all(there)]
    cells = [tuple(_WITH if there[place] else _WITHOUT for there in patterns) for place in range(len(lists))]
    ordered = sorted(
        zip(cells, (row.group.values for row in comparison.rows), strict=True), key=lambda cell: cell[0].count(_WITH)
    )
    return _complete(varied, ordered)


def _list_plugins(tables: Sequence[Mapping[str, object]]) -> list[str]:
    return [str(table.get("name") or table.get("use", "")) for table in tables]


def _complete(
    factors: Sequence[str], cells: Sequence[tuple[Cell, Mapping[int, float]]]
) -> tuple[list[str], dict[Cell, Mapping[int, float]]] | None:
    """The grid, where there are two factors or more and each combination of their levels is there once."""
    found = dict(cells)
    count = 1
    for place in range(len(factors)):
        count *= len({cell[place] for cell in found})
    whole = len(factors) > 1 and len(cells) == len(found) == count
    return (list(factors), found) if whole else None
