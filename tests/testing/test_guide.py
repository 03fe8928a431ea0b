"""The guide for authors: its three commands do what they say, and its tables name hooks that there are."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from support.forks import run

from stillhouse.cli import main
from stillhouse.contract.hookspecs import hook_arguments
from stillhouse.testing.scaffold import KINDS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/writing-a-plugin.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def column(table: str, number: int) -> list[str]:
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and not line.startswith("| -")]
    return [row[number].strip("| ") for row in rows[1:]]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the metadata that an editable installation leaves, and the source on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder.resolve() / "src"))


def test_from_nothing_to_a_trained_run_in_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("copier")
    monkeypatch.chdir(tmp_path)
    block = re.search(r"^```sh\n(.*?)^```", section("Three commands"), re.DOTALL | re.MULTILINE)
    assert block is not None
    new, test, train = map(shlex.split, block[1].splitlines())
    assert new.pop() == "--install"  # by pip, from an index
    assert main(new[1:]) == 0
    folder = Path("stillhouse-center")
    install(folder, monkeypatch)
    assert test[:3] == ["python", "-m", "pytest"]
    quick = ["-q", "-p", "no:cacheprovider", "-k", "test_plugin or documentation or training or resume"]
    done = run(*test[2:], *quick, cwd=tmp_path, PYTHONPATH=str(folder / "src"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert main([*train[1:], "--quiet", "--out", "run"]) == 0
    assert "center" in capsys.readouterr().out


def test_the_kinds_are_those_of_the_command():
    assert [kind.strip("`") for kind in column(section("Three commands"), 0)] == list(KINDS)


def test_the_tables_of_hooks_name_hooks():
    ideas = " ".join(column(section("Which hook for which idea"), 2))
    rights = " ".join(column(section("What a hook may read and write"), 0))
    hooks = set(hook_arguments())
    named = set(re.findall(r"`(\w+)`", ideas))
    assert named - {"features", "changes"} <= hooks
    written = set(re.findall(r"`(\w+)`", rights))
    assert written <= hooks
    # Every hook that takes part in a step, and every one before training, has its line.
    of_step = {name for name, arguments in hook_arguments().items() if "step" in arguments or "assembly" in arguments}
    assert of_step - written == {"iteration_completed", "metrics"}
