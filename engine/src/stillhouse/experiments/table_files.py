"""A comparison's table for other programs: as CSV with every number in full, and as LaTeX with the cells of the page."""

from __future__ import annotations

import csv
import io

from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.costs import COSTS
from stillhouse.experiments.tables import make_columns
from stillhouse.terminal import printable

__all__ = ["to_csv", "to_latex"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "−": "$-$",  # noqa: RUF001 - a minus sign
    "–": "--",  # noqa: RUF001 - a dash
    "[": "{[}",  # behind the end of a row it would be an argument
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def to_csv(comparison: Comparison) -> str:
    """Return the table as CSV: a row for each group; settings and numbers in full, an empty cell where there is none."""
    known = [name for name in COSTS if any(name in row.group.costs for row in comparison.rows)]
    rows = []
    for row in comparison.rows:
        told: dict[str, object] = {"runs": printable(row.group.name)}
        told |= {column: printable(row.group.columns.get(column, "")) for column in comparison.columns}
        told |= {"seeds": len(row.group.values), "failed": len(row.group.failed)}
        low, high = row.interval or (None, None)
        told |= {"mean": row.mean, "sd": row.deviation, "low": low, "high": high}
        for title in comparison.references:
            found, name = row.differences[title], printable(title)
            for key in ("mean", "low", "high", "n", "ties", "p", "test", "detectable"):
                told[f"less {name}: {key}"] = None if found is None else getattr(found, key)
            told[f"less {name}: p adjusted"] = row.adjusted[title]
        told |= {COSTS[name]: row.group.costs.get(name) for name in known}
        rows.append(told)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_latex(comparison: Comparison) -> str:
    """Return the table as a LaTeX ``tabular``, which needs no package."""
    columns = [column for unit in make_columns(comparison) for column in unit]
    lines = [
        rf"% {printable(comparison.metric)}".replace("\n", " "),
        rf"\begin{{tabular}}{{{''.join('l' if column.is_text else 'r' for column in columns)}}}",
        r"\hline",
        " & ".join(_escape(column.title) for column in columns) + r" \\",
        r"\hline",
    ]
    lines += [
        " & ".join(map(_escape, cells)) + r" \\" for cells in zip(*(column.cells for column in columns), strict=True)
    ]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text).replace("\n", " "))
