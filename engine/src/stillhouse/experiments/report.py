"""Reports: a comparison as one page of HTML that needs no other file, and its table and picture for papers."""

from __future__ import annotations

from pathlib import Path

from stillhouse.errors import StillhouseError
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.effects_table import effects_markdown, to_plain
from stillhouse.experiments.report_origin import describe_origin, list_failures
from stillhouse.experiments.report_page import Markup, element, make_page
from stillhouse.experiments.report_sections import (
    show_alarms,
    show_choices,
    show_costs,
    show_curves,
    show_differences,
    show_effects,
    show_parts,
    show_table,
    sum_up,
)
from stillhouse.experiments.table_files import to_csv, to_latex
from stillhouse.experiments.tables import to_markdown
from stillhouse.files import write_json, write_text

__all__ = ["make_report", "write_report"]


def write_report(folder: Path, comparison: Comparison, command: str = "") -> None:
    """Write ``report.html``, ``results.json``, and the table as ``table.md``, ``table.csv`` and ``table.tex``.

    Args:
        folder: made where it is missing; files of these names in it are written over.
        comparison: what is reported.
        command: what made it, as it was typed; empty: the report names none.

    Raises:
        StillhouseError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StillhouseError(f"cannot be made: {error.strerror or error}", where=str(folder)) from error
    write_json(folder / "results.json", to_plain(comparison))
    write_text(folder / "table.md", to_markdown(comparison) + effects_markdown(comparison))
    write_text(folder / "table.csv", to_csv(comparison))
    write_text(folder / "table.tex", to_latex(comparison))
    write_text(folder / "report.html", make_report(comparison, command))


def make_report(comparison: Comparison, command: str = "") -> str:
    """Make the page; the same runs and command give the same text."""
    sections = {
        "Differences": show_differences(comparison),
        "Parts": show_parts(comparison),
        "Choices": show_choices(comparison),
        "Effects": show_effects(comparison),
        "Curves": show_curves(comparison),
        "Costs": show_costs(comparison),
        "Alarms": show_alarms(comparison),
        "Failures": list_failures(comparison),
        "Table": show_table(comparison),
        "Origin": describe_origin(comparison, command),
    }
    there = {name: section for name, section in sections.items() if section}
    links = [element("a", name, href=f"#{name.lower()}") for name in there]
    names = sorted({row.group.recipe.run.name for row in comparison.rows if row.group.recipe is not None})
    title = names[0] if len(names) == 1 else f"{len(comparison.rows)} groups of runs"
    return make_page(
        f"{title}: {comparison.metric}", element("nav", *links), sum_up(comparison), Markup("".join(there.values()))
    )
