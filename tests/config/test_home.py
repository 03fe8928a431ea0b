"""What a run keeps says ``~`` for the home folder; in memory paths are whole. Names stay in their folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from stillhouse import Recipe, StillhouseError, train
from stillhouse.config.home import expand_home, find_path, shorten_home
from stillhouse.data import load_data

DIGITS: dict[str, Any] = {"data": {"name": "sklearn:digits", "per_class": 4}, "student": {"model": "mlp"}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is reached by a link, as on many clusters."""
    (tmp_path / "disk" / "me").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    return tmp_path / "home" / "me"


def test_paths_in_the_home_folder_are_shortened_and_found_again(home: Path):
    tables = {"a": f"{home}/x", "b": [f"folder:{home}/y", f"{home}", 5], "c": {"d": f"{home}x", "e": "~", "f": "a~/b"}}
    short = {"a": "~/x", "b": ["folder:~/y", "~/", 5], "c": {"d": f"{home}x", "e": "~", "f": "a~/b"}}
    assert shorten_home(tables) == short
    assert shorten_home({"a": f"{home.resolve()}/x"}) == {"a": "~/x"}
    assert expand_home(short)["a"] == f"{home}/x"
    assert shorten_home(expand_home(short)) == short


def test_a_recipe_is_the_same_whoevers_home_it_lies_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = {**DIGITS, "teacher": {"model": "mlp", "checkpoint": f"{home}/t.pt"}}
    short = {**DIGITS, "teacher": {"model": "mlp", "checkpoint": "~/t.pt"}}
    one, other = (Recipe.from_dict(tables, base=home) for tables in (whole, short))
    assert one == other
    digest = one.digest()
    assert other.digest() == digest
    assert str(home.resolve()) not in one.to_toml()
    assert 'base = "~/"' in one.to_toml()
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert Recipe.from_dict(short).digest() == digest


def test_a_run_holds_no_path_of_the_home_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "work").mkdir()
    (home / "work" / "t.toml").write_text(
        '[run]\nepochs = 1\n[data]\nname = "sklearn:digits"\nper_class = 4\n[student]\nmodel = "mlp"\n'
    )
    teacher = {"recipe": "t.toml", "same_labels": True}
    tables = {**DIGITS, "run": {"epochs": 1, "threads": 1}, "teacher": teacher}
    recipe = Recipe.from_dict(tables, base=home / "work")
    folder = train(recipe, out=tmp_path / "run").folder
    assert folder is not None
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".pt":
            assert str(home).encode() not in file.read_bytes(), file
            assert str(home.resolve()).encode() not in file.read_bytes(), file
    assert Recipe.load(folder / "recipe.toml").base == home / "work"
    assert json.loads((folder / "lock.json").read_text())["recipe"] == recipe.digest()


def test_data_are_the_same_whoevers_home_their_arguments_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load() -> str:
        tables = {**DIGITS, "data": {"name": "test_home:numbers", "args": {"root": "~/numbers"}, "normalize": "none"}}
        monkeypatch.setitem(sys.modules, "test_home", sys.modules[__name__])
        data = load_data(Recipe.from_dict(tables).data, seed=0)
        data.close()
        return data.info.fingerprint

    here = load()
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert load() == here


def numbers(root: str) -> TensorDataset:
    assert Path(root).is_absolute()
    return TensorDataset(torch.arange(40.0).reshape(20, 2), torch.arange(20) % 2)


def test_somebody_whom_the_machine_does_not_know():
    assert find_path("~nobody-of-this-name/x", Path("/base")) == Path("/base/~nobody-of-this-name/x")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc", "..", ".", "", " ", "a//b", "C:\\x", "a" * 201, "~/x", "\u202ex"]
)
def test_a_runs_name_stays_in_its_folder(name: str):
    with pytest.raises(
        StillhouseError, match=r"run.name: must (name a folder inside runs|have at most 200 bytes of text)"
    ):
        Recipe.from_dict({**DIGITS, "run": {"name": name}})


@pytest.mark.parametrize("name", ["vkd", "vkd.2", "first try", "group/arm-1", "Übung", "a=1,b=2", "x" * 200])
def test_plain_names_are_taken(name: str):
    assert Recipe.from_dict({**DIGITS, "run": {"name": name}}).run.name == name
