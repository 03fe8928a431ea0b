"""The command line on real files: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, FIVE, TESTS, command, recipe

from stillhouse import Recipe, load_recipe
from stillhouse.cli import main


@pytest.fixture
def in_tests(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(TESTS)
    monkeypatch.setenv("COLUMNS", "200")


def save(tmp_path: Path, *plugins: Any, **changes: Any) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*plugins, **changes).to_toml())
    return str(path)


def test_train_writes_the_run_folder_and_says_how_to_look(tmp_path: Path):
    path = save(tmp_path, *FIVE.values())
    done = command("train", path, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert f"stillhouse monitor {tmp_path / 'run'}" in done.stdout
    assert "epoch 2/2" in done.stderr
    names = {p.name for p in (tmp_path / "run").iterdir()}
    files = {"recipe.toml", "lock.json", "composition.txt", "history.jsonl", "metrics.csv", "summary.json"}
    assert names == {*files, "checkpoints", "tensorboard"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"val", "test"}
    assert summary["plugins"] == ["features", "normalizer", "projector", "spectral", "logits"]
    assert "plugins, in order" in (tmp_path / "run" / "composition.txt").read_text()


def test_train_as_json_equals_the_python_api(tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]):
    from stillhouse import train

    path = save(tmp_path, *FIVE.values())
    arguments = ["--plugins", "features,projector=linear", "--set", "optimizer.lr=0.02"]
    assert main(["train", path, "--out", str(tmp_path / "run"), "--json", "--quiet", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    loaded = load_recipe(path, overrides=["optimizer.lr=0.02"], plugins="features,projector=linear")
    result = train(loaded, write=False)
    assert printed["metrics"] == result.metrics
    assert printed["plugins"] == ["features", "projector"]


def test_explain_shows_order_reasons_shapes_terms_and_parameters(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]
):
    plugins = [
        FIVE["projector"],
        FEATURES,
        FIVE["normalizer"],
        {**FIVE["logits"], "weight": {"peak": 2.0, "until": 0.5}},
    ]
    path = save(tmp_path, *plugins)
    assert main(["explain", path]) == 0
    text = capsys.readouterr().out
    for part in (
        "moved: projector requires links, which features provides",
        "stillhouse-projector 0.1.0",
        "features/body",
        "(2, 4)",
        "2 first, 0 halfway, 0 last",
        "frozen",
    ):
        assert part in text, part
    assert main(["explain", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in told["plugins"]] == ["features", "projector", "normalizer", "logits"]
    projector = told["plugins"][1]
    assert projector["links"]["features/body"] == {"student": "(2, 6)", "teacher": "(2, 6)"}
    assert projector["trainable_parameters"] == 24
    assert told["teacher"]["trainable"] == 0
    assert {g["group"]: g["parameters"] for g in told["optimizer"]}["projector"] == 24
    assert told["losses"][0]["term"] == "task"


def test_explain_says_which_transforms_take_a_whole_batch(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]
):
    tables = "[{use='RandomCrop', size=8}, {use='RandomInvert'}, {use='RandomResizedCrop', size=8}]"
    path = save(tmp_path)
    wanted = ["--set", "data.name=sklearn:digits", "--set", f"data.transforms={tables}"]
    assert main(["explain", path, *wanted]) == 0
    assert "transforms by batch: RandomCrop, RandomInvert; by sample: RandomResizedCrop" in capsys.readouterr().out
    assert main(["explain", path, *wanted, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]["transforms"]
    assert [t["by"] for t in told] == ["batch", "batch", "sample"]


def test_explain_trains_no_teacher_and_writes_nothing(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]
):
    cache = Path(os.environ["STILLHOUSE_CACHE"])
    before = list(cache.rglob("*")) if cache.exists() else []
    path = save(tmp_path, FEATURES, FIVE["projector"], teacher={"recipe": recipe(run__name="never-trained").to_dict()})
    assert main(["explain", path]) == 0
    text = capsys.readouterr().out
    assert "trained by the recipe 'never-trained'" in text
    assert "left untrained here" in text
    assert (list(cache.rglob("*")) if cache.exists() else []) == before
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


def test_plugins_lists_and_checks(in_tests: None, capsys: pytest.CaptureFixture[str], fake_distribution: Any):
    fake_distribution("broken-dist", {"broken": "broken_module:Nothing"}, "import nothing_of_this_name")
    assert main(["plugins"]) == 0
    assert "broken" in capsys.readouterr().out
    assert main(["plugins", "--check", "--json"]) == 1
    rows = {row["use"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["projector"]["status"] == "ok"
    assert rows["projector"]["distribution"] == "stillhouse-projector"
    assert "No module named 'nothing_of_this_name'" in rows["broken"]["status"]
    assert main(["plugins", "--check"]) == 1
    text = capsys.readouterr().out
    assert "broken-dist 1.0: the plugin 'broken' cannot be imported: ModuleNotFoundError: No module named" in text


def test_skip_bad_is_the_recipes_key(tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path, run__epochs=1)
    assert main(["train", path, "--out", str(tmp_path / "run"), "--quiet", "--skip-bad"]) == 0
    assert Recipe.load(tmp_path / "run" / "recipe.toml").data.skip_bad is True
    assert Recipe.load(path).data.skip_bad is False
    assert main(["explain", path, "--skip-bad"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--skip-bad"]) == 0


def test_a_loss_that_is_not_finite_names_term_and_plugin_and_keeps_the_last_checkpoint(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str], fake_distribution: Any
):
    source = '''
from stillhouse import Plugin, Weight, hookimpl, plugin

@plugin
class Explodes(Plugin):
    """Becomes infinite in the second epoch."""
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        return {"boom": step.student.output.mean() * (float("inf") if step.epoch == 1 else 1.0)}
'''
    fake_distribution("explodes", {"explodes": "explodes_module:Explodes"}, source)
    path = save(tmp_path, {"use": "explodes"}, run__log_every=1000)
    assert main(["train", path, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    text = capsys.readouterr().err
    assert "the loss term 'explodes/boom' of plugin 'explodes' is not finite" in text
    assert (tmp_path / "run" / "checkpoints" / "last_3.pt").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_interrupting_says_how_to_go_on(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str], fake_distribution: Any
):
    source = '''
from stillhouse import Plugin, hookimpl, plugin

@plugin
class Stop(Plugin):
    """Presses Ctrl-C."""

    @hookimpl
    def iteration_completed(self, step):
        raise KeyboardInterrupt
'''
    fake_distribution("stop", {"stop": "stop_module:Stop"}, source)
    assert main(["train", save(tmp_path, {"use": "stop"}), "--out", str(tmp_path / "run"), "--quiet"]) == 130
    assert re.search(r"interrupted; go on with: stillhouse train .*--resume\n", capsys.readouterr().err)


def test_a_bug_in_a_plugin_keeps_its_traceback_and_is_named(tmp_path: Path, fake_distribution: Any):
    source = '''
from stillhouse import Plugin, hookimpl, plugin

@plugin
class Buggy(Plugin):
    """Divides by zero."""

    @hookimpl
    def transform(self, step):
        if step.student.output.requires_grad:
            1 / 0
'''
    site = fake_distribution("buggy", {"buggy": "buggy_module:Buggy"}, source)
    done = command("train", save(tmp_path, {"use": "buggy"}), "--out", str(tmp_path / "run"), PYTHONPATH=str(site))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "in plugin 'buggy', hook 'transform', epoch 1, step 1" in done.stderr


@pytest.mark.parametrize(("option", "first"), [("--json", "{"), ("", "t")])
def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path, option: str, first: str):
    path = save(tmp_path)
    script = f"{sys.executable} -m stillhouse.cli explain {path} {option} | head -c 1"
    done = subprocess.run(["bash", "-c", script], cwd=TESTS, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout == first
    assert "BrokenPipe" not in done.stderr
    assert "error" not in done.stderr
