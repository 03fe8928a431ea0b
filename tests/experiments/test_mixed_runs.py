"""Runs of other data, weights, code or versions are not compared, or marked; what differs is named with its runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from support import FEATURES, TESTS, TinyNet, recipe, tiny_data

from stillhouse import Recipe, StillhouseError, StillhouseWarning, train
from stillhouse.cli import main
from stillhouse.experiments import ablate, compare
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.tables import to_markdown

SAME: dict[str, Any] = {"teacher__args": {"width": 4}, "run__epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with features and without, and what they learnt from a file."""
    root = tmp_path_factory.mktemp("trained")
    torch.save(TinyNet(width=4).state_dict(), root / "teacher.pt")
    spec = {"model": "support:TinyNet", "args": {"width": 4}, "checkpoint": str(root / "teacher.pt")}
    teacher = {"teacher": {**spec, "normalize": "same"}}
    for name, plugins in (("none", ()), ("features", (FEATURES,))):
        train(recipe(*plugins, **teacher, run__epochs=1, run__seed=0), out=root / name)
    return root


def again(
    trained: Path, to: Path, change: Callable[[dict[str, Any]], None], name: str = "features", seed: int = 1
) -> Path:
    """A copy of a run under another seed, with its lock changed."""
    shutil.copytree(trained / name, to)
    made = Recipe.load(to / "recipe.toml").to_dict()
    made["run"]["seed"] = seed
    (to / "recipe.toml").write_text(tomli_w.dumps(made), encoding="utf-8")
    for file, own in (("lock.json", change), ("summary.json", lambda _: None)):
        told = json.loads((to / file).read_text(encoding="utf-8"))
        told["seed"] = seed
        own(told)
        (to / file).write_text(json.dumps(told), encoding="utf-8")
    return to


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(lock: dict[str, Any]) -> None:
        inner: Any = lock
        for key in keys[:-1]:
            inner = inner[key]
        assert keys[-1] in inner or isinstance(inner, list), f"the lock has no {keys}"
        inner[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (put("data", value="0" * 64), "the data"),
        (put("sources", "teacher", value="0" * 64), "the weights of teacher"),
        (put("code", "plugins.features features", value="0" * 64), "the code of plugins.features"),
        (put("code", "student support:TinyNet", value="0" * 64), "the code of student"),
        (put("code", "data support:tiny_data", value="0" * 64), "the code of data"),
        (put("versions", "torch", value="1.0"), "the version of torch"),
        (put("plugins", 0, "version", value="9.9"), "the version of stillhouse-features"),
        (put("data_info", "classes", value=7), "the number of classes"),
    ],
)
def test_what_the_lock_records_is_compared(
    trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
):
    other = again(trained, tmp_path / "other", change)
    with pytest.raises(StillhouseError) as caught:
        compare([trained, other])
    (fault,) = caught.value.faults
    assert fault.where == what
    assert fault.what.startswith("must be the same in runs that are compared, is ")
    assert str(other) in fault.what
    assert fault.hint == "--mixed compares them all the same, and marks them"
    found = compare([trained, other], mixed=True)
    assert len(found.mixed) == 1
    assert found.mixed[0].startswith(f"{what} is ")
    assert found.to_dict()["mixed"] == list(found.mixed)
    text = to_markdown(found)
    assert f"Mixed: {what} is " in text
    assert "m: mixed runs" in text
    assert {
        group["name"]: [d and d["mixed"] for d in group["differences"].values()] for group in found.to_dict()["groups"]
    }


def test_runs_that_are_alike_are_compared_without_a_word(trained: Path, tmp_path: Path):
    found = compare([trained, again(trained, tmp_path / "other", lambda _: None)])
    assert found.mixed == ()
    assert sorted(len(row.group.values) for row in found.rows) == [1, 2]
    assert not any(any(row.mixed.values()) for row in found.rows)
    assert "ixed" not in to_markdown(found)


@pytest.mark.parametrize("key", ["code", "sources", "threads", "python", "outputs"])
def test_what_an_older_lock_does_not_have_is_not_compared(trained: Path, tmp_path: Path, key: str):
    compare([trained, again(trained, tmp_path / "other", lambda lock: lock.pop(key))])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("device_name", value="a GPU"), "device: a GPU, "),
        (put("threads", value=64), "threads: 1, 64"),
        (put("python", value="2.7"), "python: 2.7, 3"),
    ],
)
def test_machines_are_told_of(trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str):
    with pytest.warns(StillhouseWarning, match=f"differ in what their last digits may follow from: {said}"):
        compare([trained, again(trained, tmp_path / "other", change)])


def test_a_lock_that_cannot_be_read_says_nothing_and_that_is_said(trained: Path, tmp_path: Path):
    other = again(trained, tmp_path / "other", lambda _: None)
    (other / "lock.json").write_text("{", encoding="utf-8")
    with pytest.warns(StillhouseWarning, match=f"nothing says what these runs were made with.*{other}"):
        compare([trained, other])


def test_another_number_of_threads_asked_for_is_another_run(trained: Path, tmp_path: Path):
    other = again(trained, tmp_path / "other", lambda _: None)
    made = Recipe.load(other / "recipe.toml").to_dict()
    made["run"]["threads"] = 2
    (other / "recipe.toml").write_text(tomli_w.dumps(made), encoding="utf-8")
    assert "run.threads" in compare([trained, other]).columns


def test_the_command_marks_what_is_mixed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = again(trained, tmp_path / "other", put("data", value="0" * 64), name="none")
    places = [str(trained / "features"), str(trained / "none"), str(other)]
    assert main(["compare", *places]) == 2
    said = capsys.readouterr().err
    assert "the data: must be the same in runs that are compared" in said
    assert main(["compare", *places, "--mixed", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" m " in line for line in lines if line.startswith("| ") and "0." in line] == [False, True]


MOVED: dict[str, float] = {"shift": 0.0}


def moving() -> Any:
    """The tiny data, which may change from one call to the next."""
    found = tiny_data()
    for data in found.values():
        data.tensors = (data.tensors[0] + MOVED["shift"], data.tensors[1])
    return found


def test_an_ablation_whose_data_have_changed_is_refused_before_it_trains_and_marked_where_it_is_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(TESTS / "experiments"))
    monkeypatch.setitem(MOVED, "shift", 0.0)
    made = recipe(FEATURES, **SAME, data__name=f"{__name__}:moving")
    first = ablate(made, seeds=1, out=tmp_path / "a")
    monkeypatch.setitem(MOVED, "shift", 3.0)
    with pytest.raises(StillhouseError, match=r"the data: must be the same.* and .* in the run to come"):
        ablate(made, seeds=2, out=tmp_path / "a")
    assert not list((tmp_path / "a").rglob("seed-4"))
    mixed = ablate(made, seeds=2, out=tmp_path / "a", mixed=True)
    assert mixed.mixed
    assert all(all(row.mixed.values()) for row in mixed.rows)
    told = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert told["mixed"] == list(mixed.mixed)
    assert "Mixed: the data is " in (tmp_path / "a" / "table.md").read_text(encoding="utf-8")
    with pytest.raises(
        StillhouseError, match="the data: must be the same"
    ):  # all are there, and nothing is to be trained
        ablate(made, seeds=2, out=tmp_path / "a")
    assert len(first.rows) == len(mixed.rows)


def test_what_depends_on_the_seed_is_not_taken_for_other_data(tmp_path: Path):
    made = recipe(FEATURES, **SAME, data__per_class=3)
    assert ablate(made, seeds=2, out=tmp_path / "a").mixed == ()
    make_plan(made, seeds=3, out=tmp_path / "a")


def test_a_grid_over_the_data_is_no_mixture(tmp_path: Path):
    made = recipe(FEATURES, **SAME)
    found = ablate(made, seeds=1, grid=["data.limit=6,12"], out=tmp_path / "a")
    assert (found.mixed, len(found.rows)) == ((), 4)
