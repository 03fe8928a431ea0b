"""``stillhouse card``: a run's facts in Markdown, without its data where nothing is to be measured."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from support import FIVE, recipe

from stillhouse import StillhouseError, evaluate, train
from stillhouse.cli import main
from stillhouse.students import card as cards
from stillhouse.students.card import make_card
from stillhouse.training.markdown import code

pytestmark = pytest.mark.usefixtures("in_tests")


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(card: str, metric: str) -> list[str]:
    return re.search(rf"^\| `{metric}` \| (.*) \|$", card, re.MULTILINE)[1].split(" | ")  # type: ignore[index]


def test_it_says_what_the_run_is_and_reads_no_data(trained: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cards, "evaluate", None)
    monkeypatch.setattr(cards, "measure", None)
    card = make_card(trained)
    lock, summary = (json.loads((trained / f"{name}.json").read_text()) for name in ("lock", "summary"))
    assert lock["data"] in section(card, "Data")
    assert f"**Parameters**: {summary['student_parameters']:,}" in card
    assert "random weights, a control" in section(card, "Teacher")
    assert row(card, "accuracy") == [f"{values['accuracy']:.4f}" for values in summary["metrics"].values()]
    assert "Of the last weights" in section(card, "Figures")
    assert "Left open" in section(card, "Licence")
    assert "Size and speed" not in card


def test_the_recipe_is_short_and_names_no_folder(trained: Path):
    block = section(make_card(trained), "Recipe").split("```toml\n")[1].split("```")[0]
    tables = tomllib.loads(block)
    assert [plugin["use"] for plugin in tables["plugins"]] == [plugin["use"] for plugin in FIVE.values()]
    assert "base" not in tables["run"]
    assert "checkpoints" not in tables
    assert tables["student"]["model"] == recipe().student.model


def test_figures_of_the_chosen_weights_and_times_are_measured_on_request(trained: Path, tmp_path: Path):
    file = tmp_path / "README.md"
    assert main(["card", str(trained), "--weights", "last", "--evaluate", "--bench", "--to", str(file)]) == 0
    card = file.read_text()
    measured = evaluate(trained, split="all", weights="last")
    assert row(card, "accuracy") == [f"{values['accuracy']:.4f}" for values in measured.metrics.values()]
    assert "Of these weights, the last ones." in card
    assert re.search(r"^\| `teacher` \| [\d,]+ \|", section(card, "Size and speed"), re.MULTILINE)
    assert "--weights last" in section(card, "Use")


def test_a_file_is_kept_unless_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "README.md").write_text("precious")
    words = ["card", str(trained), "--to", str(tmp_path / "README.md")]
    assert main(words) == 2
    assert "README.md: is there already (--force writes over it)" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "precious"
    assert main([*words, "--force"]) == 0
    assert (tmp_path / "README.md").read_text() == make_card(trained)


def test_a_run_that_has_not_ended_is_measured_or_refused(trained: Path, tmp_path: Path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "summary.json").write_text('{"metrics": 3}')
    with pytest.raises(StillhouseError, match="is not a run's summary: it has no metrics by split"):
        make_card(run)
    (run / "summary.json").unlink()
    with pytest.raises(StillhouseError, match=r"it has not ended \(--evaluate measures it as it is\)"):
        make_card(run)
    assert "## Figures" in make_card(run, measured=True)
    with pytest.raises(StillhouseError, match="--averaged: needs --evaluate"):
        make_card(trained, averaged=True)


def test_names_are_shown_and_no_markup(trained: Path, tmp_path: Path):
    run = shutil.copytree(trained, tmp_path / "run")
    odd = "<b>[x](http://y) `a` | *b*"
    lock = json.loads((run / "lock.json").read_text())
    lock["data_info"]["class_names"] = [odd, *lock["data_info"]["class_names"][1:]]
    (run / "lock.json").write_text(json.dumps(lock))
    card = make_card(run)
    assert code(odd) in section(card, "Data")
    assert "<b>" not in card
    assert "](" not in card


def test_a_run_without_a_teacher(tmp_path: Path):
    train(recipe(run__epochs=1, teacher=None), out=tmp_path / "run")
    card = make_card(tmp_path / "run")
    assert section(card, "Teacher").strip() == "None."
    assert "teacher" not in section(card, "Licence")
