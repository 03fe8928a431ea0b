"""The best or the last weights of a run: one choice, with one default, for everything that reads a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, recipe, same_state
from torch import Tensor, nn

from stillhouse import Recipe, StillhouseError, evaluate, load_student, prepare, train
from stillhouse.models.weights import find_weights, read_weights

FIRST_IS_BEST = {"score": "val/loss", "score_mode": "max"}
"""The first epoch has the greatest loss, so that a run's best weights are not its last."""
NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}
"""Its loss falls from the first epoch on, whatever masks would say."""


def first(**changes: Any) -> Recipe:
    fixed = {
        "run__epochs": 3,
        "run__name": "first",
        "teacher": None,
        "student": NO_DROPOUT,
        "checkpoints": FIRST_IS_BEST,
    }
    return recipe(**{**fixed, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(first(), out=folder)
    best, last = (find_weights(folder, kind) for kind in ("best", "last"))
    assert (best.step, last.step) == (3, 9)
    return folder


def state_of(run: Path, kind: Any) -> dict[str, Tensor]:
    return load_student(run, weights=kind).state_dict()


def find_model(keys: dict[str, Any], source: dict[str, Any], role: str) -> nn.Module:
    """What a run gets for ``role`` of the weights that ``source`` and ``keys`` name."""
    if role == "student":
        student = {"model": "support:TinyNet", "args": {"width": 4}, **source, **keys}
        return prepare(recipe(teacher=None, student=student), write=False).run.student
    return prepare(recipe(FEATURES, teacher={**source, **keys}), write=False).run.teacher


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("kind", ["checkpoint", "recipe"])
@pytest.mark.parametrize("asked", [None, "best", "last"])
def test_a_recipe_takes_the_weights_that_it_names_and_else_the_best(
    run: Path, role: str, kind: str, asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    source = {"checkpoint": str(run)} if kind == "checkpoint" else {"recipe": first().to_dict()}
    found = find_model({} if asked is None else {"weights": asked}, source, role)
    assert same_state(found.state_dict(), state_of(run, asked or "best"))


def test_every_reader_has_the_same_default(run: Path):
    default = find_weights(run)
    assert default == find_weights(run, "best")
    assert evaluate(run).weights == "best"
    assert same_state(load_student(run).state_dict(), dict(read_weights(run).state))


def test_a_run_without_a_best_gives_its_last(tmp_path: Path):
    train(first(checkpoints={"best": False}), out=tmp_path / "run")
    assert find_weights(tmp_path / "run").kind == "last"
    with pytest.raises(StillhouseError, match=r"has no best weights.*--weights last; in a recipe, weights = \"last\""):
        find_model({"weights": "best"}, {"checkpoint": str(tmp_path / "run")}, "teacher")


def test_other_weights_of_the_same_run_are_another_source(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))

    def sources(keys: dict[str, Any], source: dict[str, Any], name: str) -> Any:
        train(recipe(FEATURES, teacher={**source, **keys}), out=tmp_path / name)
        return json.loads((tmp_path / name / "lock.json").read_text())["sources"]["teacher"]

    for source in ({"checkpoint": str(run)}, {"recipe": first().to_dict()}):
        kind = next(iter(source))
        none, best, last = (
            sources(keys, source, f"{kind}{number}")
            for number, keys in enumerate(({}, {"weights": "best"}, {"weights": "last"}))
        )
        assert none == best != last


def test_moments_go_with_the_weights_that_have_them(run: Path):
    start = find_model({"optimizer_state": True}, {"checkpoint": str(run)}, "student")
    assert same_state(start.state_dict(), state_of(run, "last"))
    with pytest.raises(StillhouseError, match=r"student\.weights: must be 'last' with `optimizer_state`"):
        find_model({"optimizer_state": True, "weights": "best"}, {"checkpoint": str(run)}, "student")


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_only_a_run_has_several_weights(role: str, run: Path, tmp_path: Path):
    torch.save(state_of(run, "last"), tmp_path / "one.pt")
    named = {"checkpoint": str(tmp_path / "one.pt"), **({"model": "support:TinyNet"} if role == "teacher" else {})}
    with pytest.raises(StillhouseError, match=r"checkpoint.*is one file, and has no best weights beside others"):
        find_model({"weights": "best"}, named, role)
    with pytest.raises(StillhouseError, match=rf"{role}\.weights: needs `checkpoint` or `recipe`"):
        find_model(
            {"weights": "last"}, {"model": "support:TinyNet", **({"random": True} if role == "teacher" else {})}, role
        )


def test_a_student_that_started_from_chosen_weights_is_loaded_again(run: Path, tmp_path: Path):
    student = {"model": "support:TinyNet", "args": {"width": 4}, "checkpoint": str(run), "weights": "last"}
    ended = train(recipe(teacher=None, student=student), out=tmp_path / "run")
    assert same_state(load_student(tmp_path / "run", weights="last").state_dict(), ended.student.state_dict())


def test_a_folder_that_is_no_run_is_not_told_to_train_on(tmp_path: Path):
    with pytest.raises(StillhouseError, match="is no run's folder"):
        find_weights(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(StillhouseError, match=r"no checkpoint yet.*--resume"):
        find_weights(tmp_path)
