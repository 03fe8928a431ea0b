"""Main effects and interactions as a table: on the terminal, as Markdown, and with the whole comparison as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.effects import Effect, find_effects
from stillhouse.experiments.tables import Column, format_detectable, format_difference, print_tables
from stillhouse.training.markdown import make_table

__all__ = ["effects_markdown", "show_effects", "to_plain"]


def to_plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison with its effects as plain data, for JSON."""
    return {**comparison.to_dict(), "effects": [effect.to_dict() for effect in find_effects(comparison)]}


def show_effects(comparison: Comparison, console: Console) -> None:
    """Print the effects, and what they are; nothing where the groups are no full grid."""
    if effects := find_effects(comparison):
        print_tables([[column] for column in _make_columns(effects)], [_explain(effects)], "effects", console)


def effects_markdown(comparison: Comparison) -> str:
    """The effects as Markdown; empty where the groups are no full grid."""
    effects = find_effects(comparison)
    if not effects:
        return ""
    columns = _make_columns(effects)
    rows = zip(*(column.cells for column in columns), strict=True)
    return f"\n{make_table([column.title for column in columns], rows)}\n\n{_explain(effects)}\n"


def _make_columns(effects: Sequence[Effect]) -> list[Column]:
    return [
        Column("effect", [effect.name for effect in effects], is_text=True),
        Column("seeds", [str(effect.difference.n) for effect in effects]),
        Column("difference [95%]", [format_difference(effect.difference, effect.adjusted) for effect in effects]),
        Column("detectable", [format_detectable(effect.difference) for effect in effects]),
    ]


def _explain(effects: Sequence[Effect]) -> str:
    return (
        "An effect is the mean over all cells with a level less that over those with the first; an interaction (×) what two add "  # noqa: RUF001
        f"together beyond the sum of both. Paired by the seeds of every cell; *: p < 0.05 after Holm's correction for these {len(effects)}."
    )
