"""Comparing runs: the statistics against SciPy and simulation, pairing by seed, settings that differ, bad input."""

from __future__ import annotations

import json
import math
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from support import FEATURES, TESTS, recipe

from stillhouse import Recipe, StillhouseError, StillhouseWarning, train
from stillhouse.cli import main
from stillhouse.experiments import compare, holm, paired_difference, t_interval, welch_difference
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.settings import shorten_values
from stillhouse.experiments.statistics import smallest_detectable
from stillhouse.experiments.tables import show, to_markdown

numbers = st.floats(-10, 10).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12).filter(
    lambda found: np.ptp([a - b for a, b in found]) > 1e-2
)


@given(pairs, st.sampled_from([0.8, 0.95, 0.99]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_paired_differences_are_scipys(values: list[tuple[float, float]], level: float):
    a, b = (list(side) for side in zip(*values, strict=True))
    found = paired_difference(a, b, level)
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(level)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7, abs=1e-7)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert found.n == len(a)
    assert found.paired


@given(
    st.lists(numbers, min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-2),
    st.lists(numbers, min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-2),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_unpaired_differences_are_scipys_welch(a: list[float], b: list[float]):
    found = welch_difference(a, b)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7, abs=1e-7)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert not found.paired


def test_the_interval_of_a_mean_is_scipys():
    x = [0.91, 0.88, 0.93, 0.9]
    theirs = stats.t.interval(0.95, 3, loc=np.mean(x), scale=stats.sem(x))
    assert t_interval(x) == pytest.approx(theirs)


def test_too_few_and_equal_values_have_no_interval_and_no_nan():
    assert t_interval([0.5]) is None
    one = paired_difference([0.5], [0.25])
    assert (one.mean, one.low, one.high, one.p, one.detectable) == (0.25, None, None, None, None)
    # One image more in each of two seeds is no certainty, and rounding is no spread.
    for a, b, mean in (
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
        ([1.5, 2.5], [1.0, 2.0], 0.5),
        ([0.9028, 0.8], [0.9, 0.7972], 0.0028),
    ):
        found = paired_difference(a, b)
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high, found.p, found.detectable) == (None, None, None, None)
    assert welch_difference([1.0, 1.0], [2.0, 2.0]).p is None
    assert welch_difference([1.0], [2.0, 3.0]).low is None
    with pytest.raises(StillhouseError, match="as many measurements of both, at least 1, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_the_detectable_difference_is_found_four_times_in_five():
    generator = np.random.default_rng(0)
    for n, alpha in ((3, 0.05), (10, 0.05), (6, 0.01)):
        true = smallest_detectable(2.0, n, alpha)
        x = generator.normal(true, 2.0, (40_000, n))
        found = stats.ttest_1samp(x, 0.0, axis=1).pvalue < alpha
        assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_the_detectable_difference_agrees_with_the_noncentral_t():
    shift = smallest_detectable(1.0, 10, 0.05) * math.sqrt(10)
    assert stats.nct.sf(stats.t.ppf(0.975, 9), 9, shift) == pytest.approx(0.8, abs=1e-4)


def test_holms_correction_by_hand():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never falling
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_groups_are_paired_by_the_seeds_they_share():
    base = Group("base", {0: 0.5, 1: 0.6, 2: 0.7}, against={"base": "base"})
    paired = Group("paired", {1: 0.8, 2: 0.8, 9: 0.1}, against={"base": "base"})
    apart = Group("apart", {7: 0.8, 8: 0.9}, against={"base": "base"})
    lone = Group("lone", {5: 0.8}, against={"base": "base"})
    rows = {row.group.name: row for row in compare_groups("test/accuracy", [base, paired, apart, lone]).rows}
    assert rows["base"].differences["base"] is None
    found = rows["paired"].differences["base"]
    assert found is not None
    assert found.n == 2
    assert found.mean == pytest.approx((0.2 + 0.1) / 2)
    unpaired = rows["apart"].differences["base"]
    assert unpaired is not None
    assert not unpaired.paired
    assert unpaired.mean == pytest.approx(0.85 - 0.6)
    assert rows["lone"].differences["base"] is None
    assert rows["lone"].mean == 0.8


def test_differences_without_spread_have_no_star_and_a_line_that_says_why():
    values = {"none": {0: 0.9, 1: 0.8}, "one": {0: 0.91, 1: 0.81}, "two": {0: 0.91, 1: 0.84}}
    groups = [Group(name, found, against={"none": "none"}) for name, found in values.items()]
    text = to_markdown(compare_groups("test/accuracy", groups))
    assert "| one | 2 | 0.8600 ± 0.0707 | +0.0100 | \u2013 |" in text
    assert "for the 1 comparisons of the column" in text
    assert "A difference without an interval is the same for each pair of runs" in text


def test_correction_counts_the_comparisons_of_a_column():
    generator = np.random.default_rng(1)
    groups = [
        Group(f"arm {k}", dict(enumerate(generator.normal(k / 10, 0.1, 5).tolist())), against={"none": "arm 0"})
        for k in range(4)
    ]
    rows = compare_groups("test/accuracy", groups).rows
    raw = [row.differences["none"].p for row in rows[1:]]
    assert [row.adjusted["none"] for row in rows[1:]] == pytest.approx(holm(raw))
    expected = smallest_detectable(
        float(np.std([groups[1].values[s] - groups[0].values[s] for s in range(5)], ddof=1)), 5, 0.05 / 3
    )
    assert rows[1].differences["none"].detectable == pytest.approx(expected)


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
