"""What is trained before a run, in which order, and how often anything is loaded, built and walked over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe, same_state, tables
from torch import nn

import stillhouse.data.loader as loading
import stillhouse.teachers.prerequisites as listing
import stillhouse.teachers.sources as building
import stillhouse.training.building as preparing
from stillhouse import Plugin, Recipe, StillhouseError, hookimpl, plugin, prepare, train

METHOD = [FEATURES, {"use": "projector"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often data are loaded, models built and runs assembled."""
    found: Counter[str] = Counter()

    def count(module: Any, function: str, name: str) -> None:
        inner = getattr(module, function)

        def counting(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, function, counting)

    count(loading, "_load", "data")
    count(listing, "build_model", "models")
    count(building, "build_model", "models")
    count(preparing, "assemble", "assemblies")
    return found


def named(name: str, *plugins: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The tables of a recipe of that name, without a teacher unless one is among ``changes``."""
    made = tables(**{"teacher": None, **changes}, run__epochs=1, plugins=list(plugins))
    made["run"]["name"] = name
    return made


def trained(cache: Path) -> list[str]:
    """The names of the runs that were trained to their ends, in that order."""
    summaries = sorted(cache.rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name.rpartition("-")[0] for path in summaries]


def started_from(name: str, **changes: Any) -> dict[str, Any]:
    return {"model": "support:TinyNet", "recipe": named(name, **changes)}


def test_data_models_and_walks_are_few(own_cache: Path, counted: Counter[str]):
    made = recipe(*METHOD, teacher={"recipe": named("teacher", data__per_class=4)})
    prepare(made, write=False)
    assert trained(own_cache) == ["teacher"]
    # The run is rehearsed, its teacher's run is assembled, and then it is itself.
    assert counted == {"data": 2, "models": 3, "assemblies": 3}
    counted.clear()
    prepare(made, write=False)
    assert counted == {"data": 2, "models": 2, "assemblies": 1}
    counted.clear()
    prepare(made, write=False, train_teacher=False)
    assert counted == {"data": 2, "models": 2, "assemblies": 1}


def test_a_teacher_of_the_same_data_has_them_read_once(counted: Counter[str]):
    made = recipe(*METHOD, teacher={"recipe": named("teacher")})
    prepare(made, write=False)
    assert counted["data"] == 1
    counted.clear()
    prepare(made, write=False)
    assert counted == {"data": 1, "models": 2, "assemblies": 1}


def test_a_run_is_the_same_whether_its_teacher_was_found_or_trained_for_it():
    """Also where a plugin's module starts from what the teacher says."""

    @plugin
    class Starts(Plugin):
        """Begins at the teacher's features."""

        @hookimpl
        def build(self, assembly: Any) -> nn.Module:
            module = nn.Module()
            module.register_buffer("mean", assembly.features["teacher"]["body"].mean((0, 2, 3)))
            return module

    from stillhouse_features import Features
    from stillhouse_projector import Projector

    plugins = [Features(links=FEATURES["links"]), Projector(), Starts()]
    made = recipe(teacher={"recipe": named("teacher")}, run__epochs=1)
    begun, ended = [], []
    for _ in range(2):
        training = prepare(made, plugins=plugins, write=False)
        begun.append({k: v.clone() for k, v in training.walk.composition.state_dict().items()})
        ended.append(training.fit().student.state_dict())
    assert any(key.startswith("plugins.") and key.endswith(".mean") for key in begun[0])
    assert same_state(*begun)
    assert same_state(*ended)
    explained = prepare(made, plugins=plugins, write=False, train_teacher=False)
    assert same_state(explained.walk.composition.state_dict(), begun[0])


def test_what_others_need_is_trained_first_and_each_once(own_cache: Path):
    teacher = named("middle", *METHOD, teacher={"recipe": named("deepest")}, student=started_from("start"))
    prepare(recipe(*METHOD, teacher={"recipe": teacher}, student=started_from("start")), write=False)
    assert trained(own_cache) == ["start", "deepest", "middle"]


def test_a_run_in_between_that_reads_no_teacher_has_none_trained(own_cache: Path):
    teacher = named("middle", teacher={"recipe": named("deepest")})
    prepare(recipe(*METHOD, teacher={"recipe": teacher}), write=False)
    assert trained(own_cache) == ["middle"]


@pytest.mark.parametrize("start", [False, True])
def test_nothing_is_trained_for_a_run_in_between_that_cannot_be(own_cache: Path, start: bool):
    missing = {**FEATURES, "links": [{"student": "bodi", "teacher": "body"}]}
    if start:  # the teacher would be trained second, and needs nobody else
        made = recipe(
            *METHOD, teacher={"recipe": named("middle", optimizer={"name": "lbfgs"})}, student=started_from("start")
        )
    else:
        teacher = named("middle", missing, {"use": "projector"}, teacher={"recipe": named("deepest")})
        made = recipe(*METHOD, teacher={"recipe": teacher})
    with pytest.raises(StillhouseError, match=r"teacher\.recipe.*(lbfgs calls the model|no layer 'bodi')"):
        prepare(made, write=False)
    assert trained(own_cache) == []


def test_what_was_trained_is_told_from_what_was_not(own_cache: Path):
    made = recipe(*METHOD, teacher={"recipe": named("teacher")})
    assert not prepare(made, write=False, train_teacher=False).teacher_is_trained
    assert trained(own_cache) == []
    assert prepare(made, write=False).teacher_is_trained


def test_models_of_python_are_left_alone_while_others_are_trained():
    given = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    before = {k: v.clone() for k, v in given.state_dict().items()}
    plugins = [{"use": "logits"}]
    training = prepare(recipe(*plugins, teacher={"recipe": named("teacher")}), student=given, write=False)
    assert training.run.student is given
    assert same_state(before, given.state_dict())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StillhouseError, match=r"file/teachers.*the trained recipe cannot be kept: .*STILLHOUSE_CACHE"):
        train(recipe(*METHOD, teacher={"recipe": named("teacher")}), write=False)


def test_a_start_of_another_model_is_named_by_its_table():
    made = recipe(teacher=None, student={**started_from("start"), "args": {"width": 5}})
    with pytest.raises(StillhouseError, match=r"student\.recipe.*does not fit the model"):
        prepare(Recipe.from_dict(made.to_dict()), write=False)
