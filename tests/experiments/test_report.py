"""Reports: one page that needs no other file and says how to read it, the same for the same runs, strangers' names as they are."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FEATURES, recipe

from stillhouse.cli import main
from stillhouse.experiments.comparison import Comparison, Group, compare_groups
from stillhouse.experiments.costs import count_alarms
from stillhouse.experiments.effects import find_effects
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.experiments.picture import wrap_name
from stillhouse.experiments.report import make_report, write_report
from stillhouse.experiments.table_files import to_csv, to_latex

EVIL = "<script>alert(1)</script>_$x&y\u202e"
FAST: dict[str, Any] = {"run__epochs": 2, "teacher__args": {"width": 4}}
VOID = {"meta"}


class Page(HTMLParser):
    """The tags, the text of each section by its id, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._section] = self.texts.get(self._section, "") + data + "|"


def run(seed: int, *scores: float) -> FinishedRun:
    summary = {"seed": seed, "history": [{"accuracy": score} for score in scores]}
    return FinishedRun(
        Path(f"runs/{seed}"), recipe(run__seed=seed), summary, {"data": f"hash{seed}", "python": "3.11.7"}
    )


def make_comparison(name: str = "features") -> Comparison:
    """A group without plugins, and one with: one tie, one run without a result, costs and an alarm."""
    alarm = {"kind": "zero matrix", "about": "projector", "advice": "try another init"}
    groups = [
        Group(
            "none",
            {0: 0.5, 1: 0.6, 2: 0.7},
            against={"none": "none"},
            costs={"step_ms": 1.5},
            recipe=recipe(),
            runs=(run(0, 0.3, 0.5), run(1, 0.4, 0.6), run(2, 0.4, 0.7)),
        ),
        Group(
            name,
            {0: 0.5, 1: 0.65, 2: 0.8},
            against={"none": "none"},
            failed={3: "the loss is not finite"},
            costs={"step_ms": 2.5},
            alarms=count_alarms([{"alarms": [alarm]}]),
            recipe=recipe(FEATURES),
            runs=(run(0, 0.3, 0.5), run(1, 0.4, 0.65), run(2, 0.4, 0.8)),
        ),
    ]
    lost = {"arm": name, "seed": 3, "folder": "runs/3", "error": f"the loss is not finite {name}"}
    return compare_groups("test/accuracy", groups, missing=[lost])


def test_a_report_answers_in_sections_that_say_how_to_read_them():
    page = Page(make_report(make_comparison(), "stillhouse ablate r.toml"))
    assert list(page.texts)[1:] == [
        "differences",
        "parts",
        "curves",
        "costs",
        "alarms",
        "failures",
        "table",
        "origin",
    ]
    assert "Runs with a result: 6, in 2 groups, measured by test/accuracy. Without one: 1." in page.texts[""]
    assert "Groups tested against none: 1; different from it at p < 0.05 after Holm's correction: 0." in page.texts[""]
    cells = {name: text.split("|") for name, text in page.texts.items()}
    row = cells["differences"].index("features − none")  # noqa: RUF001 - a minus sign
    assert cells["differences"][row + 1] == "+0.0500"
    assert cells["differences"][row + 5] == "sign-flip"
    assert cells["differences"][row + 7 : row + 9] == ["3", "1"], "pairs, and those that are equal"
    assert "families of comparisons, by themselves: the 1 against none." in page.texts["differences"]
    assert cells["parts"].count("✓") == 1
    assert cells["costs"][cells["costs"].index("features") + 1] == "2.5"
    assert "1 of 3" in cells["alarms"]
    assert cells["failures"][4:6] == ["the loss is not finite features", "1"]
    assert "runs/3" in cells["failures"]
    assert "stillhouse ablate r.toml" in cells["origin"]
    assert "0, 1, 2, 3" in cells["origin"]
    assert "hash1 in 2 of 6 runs (seed 1)" in page.texts["origin"]
    assert "0.65" in page.texts["curves"]


def test_a_page_needs_no_other_file_and_links_to_its_own_sections_alone():
    text = make_report(make_comparison())
    page = Page(text)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    known = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "image")
        assert not {"src", "srcset"} & attributes.keys()
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").removeprefix("#") in {*known, ""}
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_strangers_names_are_shown_as_they_are():
    comparison = make_comparison(EVIL)
    text = make_report(comparison, f"stillhouse compare '{EVIL}'")
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "\u202e" not in text
    assert r"<script>alert(1)</script>_$x&y\u202e" in page.texts["parts"]
    latex = to_latex(comparison)
    assert (
        r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}\_\$x\&y\textbackslash{}u202e &"
        in latex
    )
    assert latex.count(r"\\" + "\n") == 3


def test_the_same_runs_give_the_same_files(tmp_path: Path):
    for name in "ab":
        write_report(tmp_path / name, make_comparison(), "typed")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"report.html", "results.json", "table.md", "table.csv", "table.tex"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_runs_without_references_histories_and_costs_have_a_report_of_what_there_is():
    page = Page(make_report(compare_groups("val/loss", [Group("only", {0: 1.0})])))
    assert list(page.texts)[1:] == ["failures", "table", "origin"]
    assert "There is none." in page.texts["failures"]


def test_one_seed_of_each_is_tested_against_nothing_and_the_report_says_so():
    found = compare_groups("val/loss", [Group(n, {0: v}, against={"a": "a"}) for n, v in (("a", 1.0), ("b", 2.0))])
    page = Page(make_report(found))
    assert "None is tested against a: that takes two seeds or more of both." in page.texts[""]
    assert "Holm" not in page.texts["differences"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("features+projector=off,logits=on", ["features+projector=off,", "logits=on"]),
        ("runs/of a long-name/seed-0", ["runs/of a long-name/seed-0"]),
        ("without", ["without"]),
        ("x" * 40, ["x" * 30, "x" * 10]),
    ],
)
def test_names_in_figures_break_between_their_parts(name: str, lines: list[str]):
    assert wrap_name(name, 30).splitlines() == lines


def test_csv_has_every_number_in_full_and_none_where_there_is_none():
    rows = list(csv.DictReader(io.StringIO(to_csv(make_comparison()))))
    assert [row["runs"] for row in rows] == ["none", "features"]
    found = make_comparison().rows[1].differences["none"]
    assert found is not None
    assert float(rows[1]["less none: mean"]) == found.mean
    assert float(rows[1]["less none: low"]) == found.low
    assert rows[1]["failed"] == "1"
    assert rows[0]["less none: mean"] == ""
    assert rows[1]["step, ms"] == "2.5"


def grid(values: np.ndarray, columns: tuple[str, ...] = ("a", "b")) -> Comparison:
    """Groups of a grid of settings; ``values`` are (levels of a, levels of b, seeds)."""
    groups = [
        Group(f"a={i},b={j}", dict(enumerate(values[i, j].tolist())), dict(zip("ab", (str(i), str(j)), strict=True)))
        for i in range(values.shape[0])
        for j in range(values.shape[1])
    ]
    return compare_groups("m/x", [Group("none", {0: 0.0}), *groups], columns)


def test_effects_of_a_grid_are_those_of_the_linear_model():
    values = np.random.default_rng(0).normal(size=(2, 3, 5))
    found = {effect.name: effect.difference for effect in find_effects(grid(values))}
    minus, times = "−", "×"  # noqa: RUF001 - signs
    assert len(found) == 1 + 2 + 2
    main = found[f"a: 1 {minus} 0"]
    assert main.mean == pytest.approx((values[1] - values[0]).mean())
    assert main.n == 5
    both = values[1, 2] - values[0, 2] - values[1, 0] + values[0, 0]
    interaction = found[f"a: 1 {minus} 0 {times} b: 2 {minus} 0"]
    assert interaction.mean == pytest.approx(both.mean())
    half = 2.776445 * both.std(ddof=1) / np.sqrt(5)
    assert interaction.low == pytest.approx(both.mean() - half, abs=1e-5)


def test_plugins_that_are_there_or_not_are_a_grid_too():
    projector: dict[str, Any] = {"use": "projector"}
    logits: dict[str, Any] = {"use": "logits"}
    lists = [(), (FEATURES, projector), (logits,), (FEATURES, projector, logits)]
    scores = [0.5, 0.6, 0.65, 0.7]
    groups = [
        Group(str(i), {0: score, 1: score + 0.01 * i}, recipe=recipe(*plugins))
        for i, (plugins, score) in enumerate(zip(lists, scores, strict=True))
    ]
    found = {effect.name: effect.difference for effect in find_effects(compare_groups("m/x", groups))}
    both = "with features + projector × with logits"  # noqa: RUF001 - a times sign
    assert list(found) == ["with features + projector", "with logits", both]
    assert found[both].mean == pytest.approx((0.7 - 0.6 - 0.65 + 0.5) + (0.03 - 0.02 - 0.01) / 2)
    assert "Main effects" in make_report(compare_groups("m/x", groups))


def test_plugins_are_no_grid_where_something_else_differs_too():
    lists: list[tuple[dict[str, Any], ...]] = [(), (FEATURES,), ({"use": "logits"},), (FEATURES, {"use": "logits"})]
    recipes = [recipe(*plugins, optimizer={"lr": 0.01 * (1 + len(plugins))}) for plugins in lists]
    groups = [Group(str(i), {0: 0.5, 1: 0.6}, recipe=made) for i, made in enumerate(recipes)]
    assert find_effects(compare_groups("m/x", groups)) == []


@pytest.mark.parametrize("gap", ["a cell", "a factor"])
def test_what_is_no_full_grid_has_no_effects(gap: str):
    values = np.ones((2, 2, 2))
    whole = grid(values if gap == "a cell" else values[:1])
    rows = [row.group for row in whole.rows]
    assert find_effects(compare_groups("m/x", rows[:-1] if gap == "a cell" else rows, whole.columns)) == []


def test_an_ablation_and_a_comparison_of_its_runs_write_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.toml").write_text(recipe(FEATURES, **FAST).to_toml())
    out = tmp_path / "a"
    assert main(["ablate", str(tmp_path / "r.toml"), "--seeds", "2", "--out", str(out), "--quiet"]) == 0
    assert f"report          {out / 'report.html'}" in capsys.readouterr().out
    page = Page((out / "report.html").read_text())
    assert f"stillhouse ablate {tmp_path / 'r.toml'} --seeds 2 --out {out} --quiet" in page.texts["origin"]
    assert {"differences", "parts", "curves", "failures", "table", "origin"} <= page.texts.keys()
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    command = ["compare", str(out), "--report", str(tmp_path / "new" / "b")]
    script = (
        f"import sys; from stillhouse.cli import main; assert main({command}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    names = {path.name for path in (tmp_path / "new" / "b").iterdir()}
    assert names == {p.name for p in out.iterdir() if p.is_file() and p.suffix != ".lock"} - {"ablation.json"}
    Page((tmp_path / "new" / "b" / "report.html").read_text())
    (tmp_path / "file").write_text("mine")
    assert main(["compare", str(out), "--report", str(tmp_path / "file")]) == 2
    assert "file: cannot be made" in capsys.readouterr().err
