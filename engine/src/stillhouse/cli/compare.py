"""``stillhouse compare``: compares finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from stillhouse.cli.ablate import print_comparison, print_missing
from stillhouse.cli.common import Commands, add_trust, importing

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    compare = commands.add_parser("compare", help="compare finished runs, paired by seed, with intervals")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a folder of runs")
    compare.add_argument("--metric", metavar="SPLIT/NAME", help="what the table compares (default: the task's score)")
    compare.add_argument(
        "--baseline", metavar="RUN", help="the run that the others are compared with (default: the first)"
    )
    compare.add_argument(
        "--mixed",
        action="store_true",
        help="compare runs of other data, weights, code or versions all the same, marked",
    )
    compare.add_argument(
        "--report",
        metavar="DIR",
        help="write report.html there, the table as JSON, Markdown, CSV and LaTeX, and a picture",
    )
    add_trust(compare)
    compare.add_argument("--json", action="store_true", help="print the table as JSON")
    compare.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    compare.set_defaults(function=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    with importing():
        from stillhouse.experiments.run_groups import compare

    found = compare(arguments.runs, metric=arguments.metric, baseline=arguments.baseline, mixed=arguments.mixed)
    if arguments.report is not None:
        with importing():
            from stillhouse.experiments.picture import save_figure
            from stillhouse.experiments.report import write_report
            from stillhouse.experiments.report_figures import draw_forest

        folder = Path(arguments.report)
        write_report(folder, found, arguments.typed)
        save_figure(folder / "picture.svg", draw_forest(found))
    print_comparison(found, as_json=arguments.json, as_markdown=arguments.markdown)
    print_missing(found)
    return 0
