"""Comparing runs: groups, columns and widths of the table, settings that differ, bad input."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support import FEATURES, TESTS, recipe

from stillhouse import Recipe, StillhouseError, StillhouseWarning, train
from stillhouse.cli import main
from stillhouse.experiments import compare
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.settings import shorten_values
from stillhouse.experiments.tables import show, to_markdown


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """none and features under the seeds 0 and 1, and an unfinished run."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for name, plugins in (("none", ()), ("features", ({**FEATURES, "weight": 2.0},))):
            same = {"teacher__args": {"width": 4}, "run__epochs": 1, "run__seed": seed}
            train(recipe(*plugins, **same), out=root / name / str(seed))
    (root / "open").mkdir()
    (root / "open" / "recipe.toml").write_text(recipe().to_toml())
    return root


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def test_compare_groups_runs_and_shows_what_differs(runs: Path):
    found = compare([runs / "none" / "0", runs / "features", runs / "none" / "1"], metric="val/loss")
    assert found.metric == "val/loss"
    assert found.columns == ("plugins",)
    assert [row.group.columns["plugins"] for row in found.rows] == ["none", "features"]
    values = [[metrics(runs / name / str(seed))["val"]["loss"] for seed in (0, 1)] for name in ("none", "features")]
    assert [list(row.group.values.values()) for row in found.rows] == values
    (title,) = found.references
    difference = found.rows[1].differences[title]
    assert difference.mean == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert difference.n == 2


def test_compare_takes_the_baseline_named_and_the_tasks_score(runs: Path):
    found = compare([runs / "none", runs / "features"], baseline=runs / "features" / "1")
    assert found.metric == "test/accuracy"
    assert [row.group.columns["plugins"] for row in found.rows] == ["features", "none"]


def test_compare_on_the_command_line(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    places = [str(runs / "none"), str(runs / "features")]
    assert main(["compare", *places, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [group["seeds"] for group in told["groups"]] == [[0, 1], [0, 1]]
    assert main(["compare", *places, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| runs | plugins | seeds |")
    assert len({line.count("|") for line in lines[2:6]}) == 1
    assert main(["compare", *places]) == 0
    assert "features" in capsys.readouterr().out


def test_an_option_that_differs_is_a_column(runs: Path, tmp_path: Path):
    same = {"teacher__args": {"width": 4}, "run__epochs": 1, "run__seed": 0}
    train(recipe({**FEATURES, "weight": 5.0}, **same, optimizer={"lr": 0.02}), out=tmp_path / "run")
    found = compare([runs / "features" / "0", tmp_path / "run"])
    assert set(found.columns) == {"optimizer.lr", "features.weight"}
    assert [row.group.columns["features.weight"] for row in found.rows] == ["2.0", "5.0"]


def wide_comparison(name: str = "without-the-projector") -> Any:
    """Three groups and three settings: more than 80 columns have room for."""
    against = {"none": "none", "full": "full"}
    made = [
        Group(
            group,
            {seed: 0.5 + 0.1 * i + 0.01 * seed * (i + 1) for seed in range(4)},
            {"plugins": "features, normalizer", "optimizer.lr": f"0.0{i}", "features.links": f"[{i}" + "0" * 50},
            against,
        )
        for i, group in enumerate(("none", name, "full"))
    ]
    return compare_groups("test/accuracy", made, tuple(made[0].columns))


def printed(comparison: Any, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=25)
    show(comparison, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 120, 1000])
@pytest.mark.parametrize("name", ["without-the-projector", "optimizer.lr=0.001,features.distance=smooth_l1,x=1"])
def test_no_width_takes_anything_from_the_table(width: int, name: str):
    comparison = wide_comparison(name)
    lines = printed(comparison, width)
    text = "\n".join(lines)
    for row in to_markdown(comparison).splitlines()[2:7]:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert all(cell in text for cell in cells if not cell.startswith("---")), row
    assert "…" not in text
    heads = [line for line in lines if line.lstrip().startswith("runs ")]
    assert sum(line.lstrip().startswith(name) for line in lines) == len(heads)
    assert any("0.00" in line for line in lines)
    assert "Too long for a table, and in --json: features.links." in lines
    if len(heads) > 1:
        assert f"The table is in {len(heads)} parts, for the terminal's width: --markdown prints it as one." in lines
    if width >= 80 and len(name) < 30:
        assert all(len(line) <= width for line in lines[: lines.index(next(x for x in lines if x.startswith("[95%]")))])
    assert (len(heads) == 1) == (width == 1000)


def test_differences_and_what_they_could_detect_stay_side_by_side():
    for width in (40, 60, 80, 100):
        heads = [line for line in printed(wide_comparison(), width) if line.lstrip().startswith("runs ")]
        assert sum(line.count("detectable") for line in heads) == 2
        assert all(line.count("[95%]") == line.count("detectable") for line in heads)


def test_what_is_no_terminal_has_no_width(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["compare", str(runs / "none"), str(runs / "features")]) == 0
    text = capsys.readouterr().out
    (head,) = [line for line in text.splitlines() if line.lstrip().startswith("runs ")]
    assert len(head) > 40
    assert head.split()[:3] == ["runs", "plugins", "seeds"]


def test_links_are_short_and_tell_what_they_differ_in():
    link = {"student": "a", "teacher": "b", "pool": "mean", "prefix": 0}
    other = {**link, "teacher": "c"}
    assert shorten_values([[link], [link, other], None]) == ["a->b", "a->b, a->c", "–"]  # noqa: RUF001
    assert shorten_values([[link], [{**link, "pool": "none"}]]) == ["a->b (pool=mean)", "a->b (pool=none)"]
    assert shorten_values([[link], []]) == ["a->b", "none"]
    assert shorten_values([0.5, [1, 2], "x", None]) == ["0.5", "[1, 2]", "x", "–"]  # noqa: RUF001


def test_links_that_differ_are_short_in_the_table_and_whole_in_json(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    links = [{"student": "stem", "teacher": "stem", "pool": "mean"}]
    same = {"teacher__args": {"width": 4}, "run__epochs": 1, "run__seed": 0}
    train(recipe({**FEATURES, "weight": 2.0, "links": links}, **same), out=tmp_path / "run")
    places = [str(runs / "features" / "0"), str(tmp_path / "run")]
    assert main(["compare", *places, "--markdown"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:6]
    assert [row.split("|")[2].strip() for row in rows] == ["features.links", "---", "body->body", "stem->stem"]
    assert main(["compare", *places, "--json"]) == 0
    told = json.loads(json.loads(capsys.readouterr().out)["groups"][1]["settings"]["features.links"])
    assert told[0]["pool"] == "mean"


def other_data() -> Any:
    """tiny_data with fewer test samples."""
    from support import tiny_data

    return tiny_data(test=6)


def test_runs_of_different_tasks_are_not_compared(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(TESTS)
    whole = recipe(run__epochs=1, teacher=None, task={"name": "multi-label"}).to_dict()
    shutil.copytree(runs / "none" / "0", tmp_path / "labels")
    (tmp_path / "labels" / "recipe.toml").write_text(Recipe.from_dict(whole).to_toml())
    assert main(["compare", str(runs / "none"), str(tmp_path / "labels"), "--metric", "test/loss"]) == 2
    text = capsys.readouterr().err
    assert "task.name: runs must have one task to be compared" in text
    assert f"'classification' in {runs / 'none' / '0'}, {runs / 'none' / '1'} and 'multi-label' in {tmp_path}" in text


def test_runs_on_different_data_are_not_compared(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TESTS / "experiments"))
    train(recipe(data__name="test_comparison:other_data", run__epochs=1), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        compare([runs / "none", tmp_path / "run"])
    size, data = sorted(map(str, caught.value.faults), key=len)[::-1]
    assert (
        f"the number of samples of the split 'test': must be the same in runs that are compared, is 9 in {runs}" in size
    )
    assert f" and 6 in {tmp_path / 'run'} (--mixed compares them all the same, and marks them)" in size
    assert data.startswith("the data: must be the same in runs that are compared, is ")


def test_unfinished_runs_in_a_folder_are_failures(runs: Path):
    found = compare([runs])
    assert [(len(row.group.values), row.group.failed) for row in found.rows] == [
        (2, {}),
        (2, {}),
        (0, {3: "not finished"}),
    ]
    assert "| 0 of 1 | \u2013 |" in to_markdown(found)
    assert [(item["seed"], item["folder"]) for item in found.missing] == [(3, str(runs / "open"))]


def test_two_runs_of_one_seed_are_averaged_with_a_warning(runs: Path, tmp_path: Path):
    same = {"teacher__args": {"width": 4}, "run__epochs": 1, "run__seed": 0}
    train(recipe(**same), out=tmp_path / "again")
    with pytest.warns(StillhouseWarning, match="2 runs have the seed 0"):
        found = compare([runs / "none", tmp_path / "again"], metric="val/loss")
    assert found.rows[0].group.values[0] == pytest.approx(metrics(runs / "none" / "0")["val"]["loss"])


def test_bad_input_is_named_all_at_once(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    places = [str(runs / "none"), str(runs / "open"), str(tmp_path / "nowhere"), str(tmp_path / "empty")]
    assert main(["compare", *places]) == 2
    text = capsys.readouterr().err
    assert f"{runs / 'open'}: the run must be finished" in text
    assert f"{tmp_path / 'nowhere'}: folder not found" in text
    assert f"{tmp_path / 'empty'}: must hold a finished run" in text
    assert main(["compare", str(runs / "none"), "--metric", "test/acuracy"]) == 2
    assert "did you mean 'test/accuracy'" in capsys.readouterr().err
    assert main(["compare", str(runs / "none"), "--baseline", str(runs / "features")]) == 2
    assert "must be one of the compared runs" in capsys.readouterr().err
