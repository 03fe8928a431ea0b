"""Where teachers come from."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import save_file
from support import FEATURES, TinyNet, recipe, same_state, tables

from stillhouse import Recipe, StillhouseError, load_student, prepare, train
from stillhouse.models.weights import read_weights
from stillhouse.teachers.store import cache_folder
from stillhouse.training.explanation import describe


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def taught(**changes: Any) -> Any:
    """A student's recipe whose teacher is a recipe."""
    teacher = recipe(
        run__name="teacher", teacher=None, student={"model": "support:TinyNet", "args": {"width": 6}}, **changes
    )
    return recipe(FEATURES, {"use": "projector"}, teacher={"recipe": teacher.to_dict()})


def test_nothing_is_trained_for_a_run_that_cannot_be(own_cache: Path):
    made = taught()
    for table, said in (
        ({"student": {"model": "support:TinyNet", "args": {"widht": 4}}}, "student.args.widht"),
        ({"optimizer": {"name": "lbfgs"}}, "optimizer.name: lbfgs calls the model several times"),
        (
            {"optimizer": {"name": "sgd", "args": {"momentum": "abc"}}},
            "optimizer: SGD with lr = 0.001, momentum = 'abc'",
        ),
        ({"plugins": [{**FEATURES, "links": [{"student": "bodi", "teacher": "body"}]}]}, "no layer 'bodi'"),
    ):
        with pytest.raises(StillhouseError) as caught:
            prepare(Recipe.from_dict({**made.to_dict(), **table}), write=False)
        assert said in str(caught.value)
    assert not own_cache.exists() or not list(own_cache.rglob("*"))


@pytest.mark.parametrize("plugins", [[], [{"use": "spectral", "layer": "body", "rank": 1}]])
def test_a_teacher_that_no_plugin_reads_is_not_trained(own_cache: Path, plugins: list[dict[str, Any]]):
    made = Recipe.from_dict({**taught().to_dict(), "plugins": plugins})
    assert train(made, write=False).metrics["test"]["accuracy"] > 0
    assert not list(own_cache.rglob("summary.json"))


def test_a_teachers_recipe_is_trained_once_and_found_again_by_its_content(own_cache: Path):
    first = prepare(taught(), write=False)
    (folder,) = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    stamp = (folder / "summary.json").stat().st_mtime_ns
    again = prepare(taught(), write=False)
    assert (folder / "summary.json").stat().st_mtime_ns == stamp
    assert same_state(first.run.teacher.state_dict(), again.run.teacher.state_dict())
    alone = train(
        recipe(run__name="x", teacher=None, student={"model": "support:TinyNet", "args": {"width": 6}}), write=False
    )
    assert same_state(alone.student.state_dict(), again.run.teacher.state_dict())


@pytest.mark.parametrize("changes", [{"run__seed": 9}, {"optimizer": {"lr": 0.05}}, {"data__per_class": 4}])
def test_another_content_is_another_teacher(own_cache: Path, changes: dict[str, Any]):
    one = prepare(taught(), write=False)
    two = prepare(taught(**changes), write=False)
    assert len([p for p in (own_cache / "teachers").iterdir() if p.is_dir()]) == 2
    assert not same_state(one.run.teacher.state_dict(), two.run.teacher.state_dict())


def test_a_teacher_whose_training_was_cut_goes_on(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    import stillhouse.training.evaluation as training_module

    class Killed(BaseException):
        pass

    real = training_module.evaluate
    calls: list[int] = []

    def evaluate(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return real(*args)

    whole = prepare(taught(), write=False)
    saved = {k: v.clone() for k, v in whole.run.teacher.state_dict().items()}
    (folder,) = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    import shutil

    shutil.rmtree(folder)
    monkeypatch.setattr(training_module, "evaluate", evaluate)
    with pytest.raises(Killed):
        prepare(taught(), write=False)
    assert folder.is_dir()
    assert not (folder / "summary.json").exists()
    again = prepare(taught(), write=False)
    assert same_state(saved, again.run.teacher.state_dict())


@pytest.mark.parametrize("kind", ["state dict", "wrapped", "safetensors", "run folder", "run checkpoint"])
def test_a_teacher_from_a_file(tmp_path: Path, kind: str):
    model = TinyNet(width=6)
    path = tmp_path / "teacher.pt"
    if kind == "state dict":
        torch.save(model.state_dict(), path)
    elif kind == "wrapped":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    elif kind == "safetensors":
        path = tmp_path / "teacher.safetensors"
        save_file(model.state_dict(), path)
    else:
        result = train(recipe(student={"model": "support:TinyNet", "args": {"width": 6}}), out=tmp_path / "run")
        model = result.student
        path = tmp_path / "run" if kind == "run folder" else tmp_path / "run" / "checkpoints" / "last_6.pt"
    told = {} if kind.startswith("run") else {"normalize": "same"}
    spec = {"model": "support:TinyNet", "args": {"width": 6}, "checkpoint": str(path), **told}
    training = prepare(recipe(teacher=spec), write=False)
    assert same_state(model.state_dict(), training.run.teacher.state_dict())


def test_a_file_of_another_model_is_refused(tmp_path: Path):
    torch.save(TinyNet(width=5).state_dict(), tmp_path / "teacher.pt")
    spec = {"model": "support:TinyNet", "args": {"width": 6}, "checkpoint": str(tmp_path / "teacher.pt")}
    with pytest.raises(
        StillhouseError, match=r"teacher.pt: does not fit the model: other shapes: stem.weight: \(5, 1, 3, 3\)"
    ):
        prepare(recipe(teacher=spec), write=False)


def test_a_random_teacher_follows_the_seed():
    one, same, other = (prepare(recipe(run__seed=s), write=False).run.teacher for s in (1, 1, 2))
    assert same_state(one.state_dict(), same.state_dict())
    assert not same_state(one.state_dict(), other.state_dict())


def test_a_teacher_from_python_is_used_and_a_run_of_it_is_not_repeated_without_it(tmp_path: Path):
    teacher = TinyNet(width=6)
    train(
        recipe(FEATURES, {"use": "projector"}, teacher=None), teacher=teacher, student=TinyNet(), out=tmp_path / "run"
    )
    resolved = Recipe.load(tmp_path / "run" / "recipe.toml")
    assert (resolved.student.model, resolved.student.given) == ("TinyNet", True)
    assert resolved.teacher is not None
    assert (resolved.teacher.model, resolved.teacher.given, resolved.teacher.random) == ("TinyNet", True, False)
    with pytest.raises(StillhouseError, match="student from Python"):
        prepare(resolved, write=False)
    with pytest.raises(StillhouseError, match="given its teacher from Python"):
        prepare(resolved, student=TinyNet(), write=False)


def test_a_run_that_older_versions_wrote_of_modules_from_python_is_read_as_one(tmp_path: Path):
    older = tables(
        student={"model": "given:TinyNet"},
        teacher={"model": "given:TinyNet", "random": True, "pretrained": False},
        plugins=[FEATURES],
    )
    resolved = Recipe.from_dict(older)
    assert (resolved.student.model, resolved.student.given) == ("TinyNet", True)
    assert resolved == Recipe.from_dict(resolved.to_dict())
    with pytest.raises(StillhouseError, match="student from Python"):
        prepare(resolved, write=False)
    with pytest.raises(StillhouseError, match="given its teacher from Python"):
        prepare(resolved, student=TinyNet(), write=False)
    given: dict[str, Any] = {"student": TinyNet(), "teacher": TinyNet()}
    described = describe(prepare(resolved, **given, write=False))
    assert described["teacher"]["model"] == "TinyNet (handed over)"
    ended = train(Recipe.from_dict(tables(plugins=[FEATURES])), **given, out=tmp_path / "run")
    written = tmp_path / "run" / "recipe.toml"
    known = tomllib.loads(written.read_text())
    for table in ("student", "teacher"):
        known[table]["model"] = "given:" + known[table]["model"]
        del known[table]["given"]
    known["teacher"]["random"] = True
    written.write_text(tomli_w.dumps(known))
    again = train(Recipe.load(written), **given, out=tmp_path / "run", resume=True)
    assert again.summary == ended.summary


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("STILLHOUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/stillhouse")


def started(**student: Any) -> Any:
    """A recipe whose student starts from what another recipe, of seed 5, gives."""
    first = recipe(run__name="first", run__seed=5, teacher=None)
    return recipe(teacher=None, student={"model": "support:TinyNet", "recipe": first.to_dict(), **student})


def test_a_student_starts_from_what_another_recipe_gives_and_is_measured_without_it(own_cache: Path, tmp_path: Path):
    first = train(recipe(run__seed=5, teacher=None), write=False)
    start = prepare(started(weights="last"), write=False).run.student
    assert same_state(start.state_dict(), first.student.state_dict())
    (folder,) = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    assert folder.name.startswith("first-")
    stamp = (folder / "summary.json").stat().st_mtime_ns
    ended = train(started(weights="last"), out=tmp_path / "run")
    assert (folder / "summary.json").stat().st_mtime_ns == stamp
    assert not same_state(ended.student.state_dict(), first.student.state_dict())
    shutil.rmtree(own_cache)
    assert same_state(load_student(tmp_path / "run", weights="last").state_dict(), ended.student.state_dict())


def test_the_start_of_another_task_keeps_all_but_the_head(own_cache: Path):
    first = recipe(run__name="first", teacher=None, task={"name": "self-supervised", "args": {"dim": 8}})
    tables = {"model": "support:TinyNet", "recipe": first.to_dict()}
    with pytest.raises(StillhouseError, match=r"student.*must have the model's number of classes"):
        prepare(recipe(teacher=None, student=tables), write=False)
    start = prepare(recipe(teacher=None, student={**tables, "replace_head": True}), write=False).run.student
    (folder,) = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    kept = read_weights(folder).state
    own = start.state_dict()
    differ = [key for key in own if own[key].shape != kept[key].shape]
    assert 0 < len(differ) < len(own)
    assert all(torch.equal(own[key], kept[key]) for key in own if key not in differ)


def test_a_teachers_start_counts_for_what_it_is_found_by(own_cache: Path):
    def teacher(seed: int) -> dict[str, Any]:
        first = recipe(run__name="first", run__seed=seed, teacher=None)
        student = {"model": "support:TinyNet", "recipe": first.to_dict()}
        tuned = recipe(run__name="tuned", teacher=None, student=student)
        return {"recipe": tuned.to_dict()}

    one, two = (prepare(recipe(FEATURES, teacher=teacher(seed)), write=False).run.teacher for seed in (1, 2))
    assert not same_state(one.state_dict(), two.state_dict())
    names = sorted(p.name.partition("-")[0] for p in (own_cache / "teachers").iterdir() if p.is_dir())
    assert names == ["first", "first", "tuned", "tuned"]


def test_an_explanation_trains_no_start(own_cache: Path):
    training = prepare(started(), write=False, train_teacher=False)
    assert "from what the recipe 'first' gives" in describe(training)["student"]["model"]
    assert not [p for p in (own_cache / "teachers").glob("*") if p.is_dir()]


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"recipe": "nowhere.toml"}, r"student\.recipe.*file not found"),
        ({"recipe": {"student": {"model": "support:TinyNet"}}}, r"student\.recipe"),
        ({"recipe": 3}, r"student\.recipe.*must be a recipe's file or table"),
    ],
)
def test_a_start_that_is_no_recipe_is_refused(student: dict[str, Any], said: str):
    with pytest.raises(StillhouseError, match=said):
        recipe(student={"model": "support:TinyNet", **student})


def test_two_starts_are_one_too_many(own_cache: Path):
    with pytest.raises(StillhouseError, match="cannot be combined with `checkpoint`"):
        started(checkpoint="x.pt")


def test_a_teacher_may_be_trained_on_the_students_own_labels(own_cache: Path):
    def student(seed: int, **teacher: Any) -> Any:
        tables = taught().to_dict()
        tables["run"]["seed"] = seed
        tables["data"]["per_class"] = 2
        tables["teacher"] |= teacher
        return Recipe.from_dict(tables)

    one, two = (prepare(student(seed, same_labels=True), write=False).run.teacher for seed in (1, 2))
    assert not same_state(one.state_dict(), two.state_dict())
    folders = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    assert sorted(Recipe.load(p / "recipe.toml").data.subset_seed for p in folders) == [1, 2]
    assert {Recipe.load(p / "recipe.toml").data.per_class for p in folders} == {2}
    plain = prepare(student(1), write=False).run.teacher
    assert not same_state(plain.state_dict(), one.state_dict())


def test_only_a_recipe_has_labels_of_its_own():
    with pytest.raises(StillhouseError, match=r"teacher\.same_labels: needs `recipe`"):
        recipe(teacher={"model": "support:TinyNet", "random": True, "same_labels": True})
