"""What the command line says of bad input: exit code 2, no traceback, nothing half-written, nothing touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, TESTS, command, recipe

from stillhouse.cli import main


@pytest.fixture
def in_tests(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(TESTS)
    monkeypatch.setenv("COLUMNS", "200")


def save(tmp_path: Path, *plugins: Any, **changes: Any) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*plugins, **changes).to_toml())
    return str(path)


BAD: dict[str, tuple[list[Any], dict[str, Any], list[str], list[str]]] = {
    # what is wrong: plugins, changes to the recipe, further arguments, what the message must say
    "unknown key": ([], {}, ["--set", "run.epoch=3"], ["run.epoch: unknown key 'epoch' (did you mean 'epochs'?)"]),
    "wrong type": ([], {}, ["--set", "run.epochs=many"], ["run.epochs: must be a whole number, got 'many'"]),
    "two faults": ([], {}, ["--set", "run.epochs=many", "--set", "data.bach_size=3"], ["run.epochs", "data.bach_size"]),
    "missing layer": (
        [{**FEATURES, "links": [{"student": "boddy", "teacher": "body"}]}],
        {},
        [],
        ["plugin 'features': links[0].student: the student has no layer 'boddy' (did you mean 'body'"],
    ),
    "shapes": ([FEATURES], {}, [], ["link 'features/body'", "(2, 4)", "(2, 6)", "projector"]),
    "d_t < d_s": (
        [FEATURES, {"use": "projector"}],
        {"student": {"model": "support:TinyNet", "args": {"width": 9}}},
        [],
        ["plugin 'projector'", "features/body", "9", "6"],
    ),
    "unknown plugin": ([], {}, ["--plugins", "projektor"], ["no installed plugin is called 'projektor'"]),
    "unknown option": (
        [{"use": "logits", "temprature": 2.0}],
        {},
        [],
        ["plugins[0].temprature (logits): unknown key 'temprature' (did you mean 'temperature'?)"],
    ),
    "duplicate plugin": ([{"use": "logits"}, {"use": "logits"}], {}, [], ["two plugins are called 'logits'"]),
    "no links": ([{"use": "projector"}], {}, [], ["needs 'links', which no active plugin provides"]),
    "no teacher": ([{"use": "logits"}], {"teacher": None}, [], ["needs a teacher", "add a [teacher] table"]),
    "missing data": ([], {"data": {"name": "folder:/nowhere"}}, [], ["/nowhere"]),
    "missing model": (
        [],
        {"student": {"model": "support:TinyNett"}},
        [],
        ["student.model", "TinyNett", "did you mean 'TinyNet'"],
    ),
    "unknown argument": (
        [],
        {"student": {"model": "support:TinyNet", "args": {"widht": 3}}},
        [],
        ["student.args.widht", "did you mean 'width'"],
    ),
    "unknown optimizer": ([], {"optimizer": {"name": "adamm"}}, [], ["optimizer.name: unknown optimizer 'adamm'"]),
    "optimizer argument": (
        [],
        {"optimizer": {"name": "adamw", "args": {"momentum": 0.9}}},
        [],
        ["optimizer.args.momentum: adamw has no argument 'momentum'"],
    ),
    "unknown task": ([], {"task": {"name": "classify"}}, [], ["task.name: no installed task is called 'classify'"]),
    "task option": ([], {"task": {"args": {"label_smoothing": 2.0}}}, [], ["task.args.label_smoothing"]),
    "no device": ([], {"run__device": "cuda:99"}, [], ["run.device: must be a device of this machine, got 'cuda:99'"]),
    "missing checkpoint": (
        [],
        {"teacher": {"model": "support:TinyNet", "checkpoint": "none.pt"}},
        [],
        ["none.pt: file not found"],
    ),
    "batch of one": (
        [FEATURES, {"use": "normalizer", "kind": "batch"}, {"use": "projector"}],
        {"data__batch_size": 1},
        [],
        ["plugin 'normalizer'"],
    ),
    "cycle": ([{"use": "one"}, {"use": "two"}], {}, [], ["one declares after = two", "two declares after = one"]),
    "conflict": ([{"use": "one"}, {"use": "two"}], {}, [], ["cannot be active together with 'one'"]),
}

PAIR = '''
from stillhouse import Plugin, plugin

@plugin
class One(Plugin):
    """One."""
    {one}

@plugin
class Two(Plugin):
    """Two."""
    {two}
'''


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("verb", ["train", "explain"])
def test_bad_input_is_said_clearly_with_exit_code_2(
    what: str, verb: str, tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str], fake_distribution: Any
):
    plugins, changes, arguments, says = BAD[what]
    if what in ("cycle", "conflict"):
        one, two = ('after = ("two",)', 'after = ("one",)') if what == "cycle" else ("pass", 'conflicts = ("one",)')
        source = PAIR.format(one=one, two=two)
        fake_distribution("pair", {"one": f"pair_{what}:One", "two": f"pair_{what}:Two"}, source)
    path = save(tmp_path, *plugins, **changes)
    out = [] if verb == "explain" else ["--out", str(tmp_path / "run")]
    code = main([verb, path, *arguments, *out])
    printed = capsys.readouterr()
    assert code == 2
    for part in says:
        assert part in printed.err, printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_not_touched(tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path)
    assert main(["train", path, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert main(["train", path, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert (
        "the run folder exists already (go on with --resume, or name another folder with --out)"
        in capsys.readouterr().err
    )
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    assert main(["train", path, "--out", str(tmp_path / "thesis"), "--quiet"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    (tmp_path / "file").write_text("x")
    assert main(["train", path, "--out", str(tmp_path / "file"), "--quiet"]) == 2
    assert "must be a folder, got a file" in capsys.readouterr().err
    assert main(["train", path, "--out", str(tmp_path / "file" / "run"), "--quiet"]) == 2
    assert f"{tmp_path / 'file'} is a file, and no folder can be made in it" in capsys.readouterr().err


def test_resuming_what_is_not_there_is_said(tmp_path: Path):
    done = command("train", save(tmp_path), "--out", str(tmp_path / "rnu"), "--resume", "--quiet")
    assert done.returncode == 0
    assert "no run to resume, a new one begins" in done.stderr


def test_no_permission_to_write_is_said_before_training(
    tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    path = save(tmp_path)
    monkeypatch.setattr("stillhouse.training.folder.os.access", lambda *_: False)  # root may write anywhere
    assert main(["train", path, "--out", str(tmp_path / "locked" / "run"), "--quiet"]) == 2
    assert f"no permission to write in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "locked").exists()


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path, in_tests: None, capsys: pytest.CaptureFixture[str]):
    save(tmp_path)
    assert main(["train", str(tmp_path / "recip.toml")]) == 2
    assert "file not found (did you mean 'recipe.toml'?)" in capsys.readouterr().err
