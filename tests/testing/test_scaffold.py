"""Packages from the template: each kind is made, passes its own tests and the kit, trains, and is brought up to date."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from support.forks import run

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.cli import main
from stillhouse.testing import check_plugin
from stillhouse.testing.conformance import CHECKS, name_of
from stillhouse.testing.scaffold import KINDS, make_package, update_package
from stillhouse.testing.unsaid import PLACEHOLDER

pytest.importorskip("copier")


def run_tests(folder: Path, *arguments: str) -> str:
    """The package's own tests, in a process of their own that finds it on its path."""
    done = run("pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=folder, PYTHONPATH="src")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A package of ``kind``, on the path, and its module."""
    folder = make_package(f"own-{kind}", kind, folder=tmp_path / kind)
    monkeypatch.syspath_prepend(str(folder / "src"))
    for name in [name for name in sys.modules if name.split(".")[0] == f"stillhouse_own_{kind}"]:
        monkeypatch.delitem(sys.modules, name)  # another test's, in another folder
    return folder, f"stillhouse_own_{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_passes_its_own_tests(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _ = made(kind, tmp_path, monkeypatch)
    assert " passed" in run_tests(folder, "tests/test_plugin.py")


def test_what_a_package_leaves_to_be_said_is_noted_with_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder, module = made("loss", tmp_path, monkeypatch)
    check = ["plugin", "check", f"{module}:OwnLoss", "--only", "documentation"]
    assert main(check) == 0
    shown = " ".join(capsys.readouterr().out.split())
    readme = (folder / "README.md").read_text(encoding="utf-8")
    lines = [str(number) for number, line in enumerate(readme.splitlines(), 1) if PLACEHOLDER in line]
    assert f"documentation: README.md has 'TO BE SAID' still, in lines {', '.join(lines)}" in shown
    assert "documentation: plugin.py has 'TO BE SAID' still, in line 17" in shown
    assert main([*check, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["checks"]
    assert told["notes"][0].startswith("README.md has 'TO BE SAID' still")
    (folder / "README.md").write_text(readme.replace(PLACEHOLDER, "said"), encoding="utf-8")
    assert main(check) == 0
    assert "README.md" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "task"])
def test_a_package_passes_the_kit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, module = made(kind, tmp_path, monkeypatch)
    quick = [name for name in map(name_of, CHECKS) if name not in ("neighbours", "compilation", "processes")]
    report = check_plugin(getattr(import_module(module), f"Own{kind.capitalize()}"), only=quick)
    assert report.passed, report.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_tests_of_a_package_pass_slow_ones_among_them(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _ = made(kind, tmp_path, monkeypatch)
    run_tests(folder, "--stillhouse-slow")


@pytest.mark.parametrize("kind", KINDS)
def test_a_packages_recipe_is_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, module = made(kind, tmp_path, monkeypatch)
    path = f"{module}:Own{kind.capitalize()}"  # nothing is installed here that has the name
    text = (folder / "recipe.toml").read_text().replace(f'use = "own-{kind}"', f'use = "{path}"')
    assert ('distance = "none"' in text) == (kind == "loss")  # its own term is the only one on its links
    (folder / "recipe.toml").write_text(
        text.replace(f'name = "own-{kind}"\n', f'name = "{path}"\n') if kind == "task" else text
    )
    if kind == "task":
        (folder / "recipe.toml").write_text((folder / "recipe.toml").read_text().replace(path, "own", 1))
    training = prepare(Recipe.load(folder / "recipe.toml"), write=False, train_teacher=False)
    training.close()
    assert (folder / "teacher.toml").exists() == (training.recipe.teacher is not None)


def test_the_metadata_name_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, module = made("loss", tmp_path, monkeypatch)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["stillhouse.plugins"]["own-loss"]
    assert target == f"{module}:OwnLoss"
    cls = import_module(module).OwnLoss
    assert cls.engine == ">=1,<2"
    assert (folder / "src" / module / "py.typed").exists()
    assert (folder / ".github/workflows/tests.yml").exists()


def test_the_command_makes_one_and_updates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "own-watch", "--kind", "observer", "--summary", "Watches."]) == 0
    folder = Path("stillhouse-own-watch")
    assert f"stillhouse train {folder}/recipe.toml" in capsys.readouterr().out
    plugin, workflow = folder / "src/stillhouse_own_watch/plugin.py", folder / ".github/workflows/tests.yml"
    assert '"""Watches.' in plugin.read_text()
    plugin.write_text("# mine\n")
    workflow.write_text("# of an earlier version\n")
    (folder / "tests/test_conformance.py").unlink()
    assert main(["plugin", "update", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "changed .github/workflows/tests.yml",
        "changed tests/test_conformance.py",
    ]
    assert plugin.read_text() == "# mine\n"
    assert update_package(folder) == []


@pytest.mark.parametrize("name", ["Own", "1st", "own loss", "class", "../own", "logits"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path):
    with pytest.raises(StillhouseError, match=r"cannot name a plugin|brings 'logits' already"):
        make_package(name, "loss", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StillhouseError, match="not empty"):
        make_package("own", "loss", folder=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(StillhouseError, match=r"tool\.stillhouse"):
        update_package(tmp_path)
    with pytest.raises(StillhouseError, match="cannot be read"):
        update_package(tmp_path / "nowhere")


def test_without_copier_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "copier", None)
    with pytest.raises(StillhouseError, match=r"pip install 'stillhouse\[kit\]'"):
        make_package("own", "loss", folder=tmp_path / "own")
