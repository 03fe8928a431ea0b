"""What a stranger's run or file names is looked up, not run; what somebody names herself is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from support import recipe, tables

from stillhouse import StillhouseError, load_student, train
from stillhouse.cli import main
from stillhouse.config.recipe import Recipe
from stillhouse.config.recipe_file import read_tables
from stillhouse.config.trust import is_registered
from stillhouse.entries import DATA, MODELS, PLUGINS, TASKS
from stillhouse.experiments import compare
from stillhouse.students.evaluation import evaluate
from stillhouse.students.export import export

pytestmark = pytest.mark.usefixtures("strangers")

SPRUNG = "sprung_module"
"""Made where a module beside a recipe is imported."""

OURS: dict[str, Any] = {
    "data": {"name": "sklearn:digits", "batch_size": 64, "per_class": 8},
    "student": {"model": "mlp", "args": {"width": 4}},
    "teacher": {"model": "mlp", "args": {"width": 4}, "random": True},
    "run__epochs": 1,
    "run__name": "ours",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything is registered."""
    folder = tmp_path_factory.mktemp("run") / "ours"
    train(recipe(**OURS), out=folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``run(**changes)``: a copy of it whose recipe a stranger has changed, with a module that tells of its import."""
    beside = tmp_path / "beside"
    beside.mkdir()
    source = "import pathlib\npathlib.Path(__file__).with_name('sprung').touch()\ndef net(**args): raise SystemExit(0)"
    (beside / f"{SPRUNG}.py").write_text(source)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(**changes: Any) -> Path:
        folder = tmp_path / "stranger"
        shutil.copytree(finished, folder)
        told = read_tables(folder / "recipe.toml")
        told["run"]["base"] = str(beside)
        for key, value in changes.items():
            table, _, inner = key.partition("__")
            if inner:
                told[table][inner] = value
            else:
                told[table] = value
        (folder / "recipe.toml").write_text(tomli_w.dumps(told))
        return folder

    yield make
    assert not (beside / "sprung").exists()


CODE = [
    {"student__model": "os:system", "student__args": {"command": "touch sprung"}},
    {"student__model": f"{SPRUNG}:net"},
    {"student__model": "stillhouse.models:builder.import_object"},
    {"student__model": "stillhouse.models.builder:import_object"},
    {"student__model": "torch.hub:load", "student__args": {"repo_or_dir": "a/b", "model": "c"}},
    {"task__name": f"{SPRUNG}:net"},
    {"plugins": [{"use": f"{SPRUNG}:net"}]},
]


@pytest.mark.parametrize("changes", CODE)
@pytest.mark.parametrize("command", ["evaluate", "export", "load"])
def test_a_strangers_run_makes_no_code_run(changes: dict[str, Any], command: str, run: Callable[..., Path]) -> None:
    folder = run(**changes)
    calls: dict[str, Callable[[], object]] = {
        "evaluate": lambda: evaluate(folder),
        "export": lambda: export(folder, folder.parent / "s.safetensors"),
        "load": lambda: load_student(folder),
    }
    if command == "evaluate" and "plugins" in changes:
        with pytest.warns(match=r"that no installed package registers.*--trust"):
            calls[command]()
        return
    with pytest.raises(StillhouseError, match=r"that no installed package registers, and is not run because .*--trust"):
        calls[command]()


def test_a_strangers_data_are_not_opened_by_its_own_code(run: Callable[..., Path]) -> None:
    folder = run(data__name=f"{SPRUNG}:net")
    with pytest.raises(StillhouseError, match=r"data.name: 'sprung_module:net' is code"):
        evaluate(folder)
    assert evaluate(folder, data="sklearn:digits").metrics  # the person's own word
    assert main(["evaluate", str(folder), "--set", "data.name=sklearn:digits", "--set", "data.args={}"]) == 0


def test_a_strangers_recipe_is_not_trained_on_without_a_word(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(optimizer__name=f"{SPRUNG}:net")
    for words in (["train", "--out", str(folder), "--resume"], ["explain"], ["ablate", "--only", "0"]):
        assert main([words[0], str(folder / "recipe.toml"), *words[1:]]) == 2
        assert "'sprung_module:net' is code that no installed package registers" in capsys.readouterr().err
    assert main(["explain", str(folder / "recipe.toml"), "--set", "optimizer.name=torch.optim:SGD"]) == 0


def test_a_strangers_run_is_no_teacher_by_its_own_code(run: Callable[..., Path]) -> None:
    folder = run(student__model="os:system")
    asks = recipe({"use": "logits"}, **{**OURS, "teacher": {"checkpoint": str(folder)}})
    with pytest.raises(StillhouseError, match=r"teacher.checkpoint: student.model: 'os:system' is code"):
        train(asks, write=False)


def test_what_is_trusted_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = recipe(run__epochs=1)  # a model and data of the test's own
    train(mine, out=tmp_path / "run")
    with pytest.raises(StillhouseError, match="support:tiny_data"):
        evaluate(tmp_path / "run")
    wanted = evaluate(tmp_path / "run", trust=True).metrics
    assert main(["evaluate", str(tmp_path / "run"), "--trust"]) == 0
    monkeypatch.setenv("STILLHOUSE_TRUST", os.pathsep.join([str(tmp_path / "elsewhere"), str(tmp_path)]))
    assert evaluate(tmp_path / "run").metrics == wanted
    monkeypatch.setenv("STILLHOUSE_TRUST", str(tmp_path / "elsewhere"))
    teacher = {"checkpoint": str(tmp_path / "run")}
    with pytest.raises(StillhouseError, match="'support:TinyNet' is code"):
        train(recipe({"use": "logits"}, teacher=teacher, run__epochs=1), write=False)
    assert train(recipe({"use": "logits"}, teacher=teacher, run__epochs=1), write=False, trust=True).metrics
    told = tmp_path / "asks.toml"
    told.write_text(tomli_w.dumps(tables(teacher=teacher, plugins=[{"use": "logits"}])))
    assert main(["explain", str(told)]) == 2
    assert main(["explain", str(told), "--trust"]) == 0


def test_runs_of_somebodys_task_are_compared_without_it(run: Callable[..., Path], finished: Path) -> None:
    folder = run(task__name=f"{SPRUNG}:net")
    assert compare([finished, finished]).metric == "test/accuracy"
    assert compare([folder]).metric == "test/accuracy"


def test_paths_that_are_registered() -> None:
    for path in ("stillhouse.models:convnet", "stillhouse.models.nets:convnet"):
        assert is_registered(MODELS, path)
    assert is_registered(TASKS, "stillhouse.tasks.regression:Regression")
    assert is_registered(PLUGINS, "stillhouse_features:Features")
    for group, path in (
        (MODELS, "os:system"),
        (MODELS, "stillhouse.models.nets.dense:os"),
        (MODELS, "stillhouse.models:"),
        (MODELS, "stillhouse.tasks.regression:Regression"),
        (DATA, "stillhouse.data.openers:open_folder.x"),
        (DATA, "evil.stillhouse.data.openers:open_folder"),
    ):
        assert not is_registered(group, path), path


EVIL = [
    ("stillhouse.models:family.attrs.os.system", {"command": "touch sprung"}),
    ("stillhouse.models.builder:import_object", {"path": "os:system", "where": ""}),
    ("stillhouse.models.nets:os.system", {}),
    ("stillhouse:convnet.x", {}),
    ("os:system", {"command": "touch sprung"}),
    ("timm:hf-hub:somebody/something", {}),
    ("torchvision:resnet18:x", {}),
    ("convnet:x", {}),
    ("timm:resnet18", {"checkpoint_path": "evil.pth"}),
    ("timm:resnet18", {"model_name": "hf-hub:somebody/something"}),
    ("timm:resnet18", {"pretrained": True, "pretrained_cfg": {"file": "evil.pth"}}),
]


@pytest.mark.parametrize(("model", "args"), EVIL)
def test_an_exported_file_builds_what_is_on_the_list_alone(
    model: str, args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    about = {"model": model, "args": args, "outputs": 3, "classes": 3, "class_names": list("abc")}
    told = json.dumps({**about, "input_shape": [1, 8, 8]})
    save_file({"w": torch.zeros(1)}, "evil.safetensors", {"stillhouse": told})
    with pytest.raises(StillhouseError, match=r"other code is not run|names a file of weights|is what follows timm:"):
        load_student("evil.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["evil.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [{"args": 5}, {"args": [[1]]}, {"input_shape": ["a"]}, {"input_shape": 3}, {"class_names": [1]}, {"outputs": None}],
)
def test_damaged_metadata_of_an_exported_file(changes: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    about = {"model": "mlp", "args": {}, "outputs": 3, "classes": 3, "class_names": list("abc"), "input_shape": [1, 8]}
    save_file({"w": torch.zeros(1)}, tmp_path / "s.safetensors", {"stillhouse": json.dumps({**about, **changes})})
    with pytest.raises(StillhouseError, match="its metadata are damaged"):
        load_student(tmp_path / "s.safetensors")


def test_the_run_of_a_recipe_that_is_all_registered_needs_no_word(finished: Path) -> None:
    assert Recipe.load(finished / "recipe.toml").student.model == "mlp"
    assert evaluate(finished).metrics["test"]["accuracy"] > 0
    assert load_student(finished) is not None
