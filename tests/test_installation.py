"""The parts as pip sees them: an outside plugin in a fresh environment, any subset of the first-party ones, no imports between them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support import FIVE, tables
from support.wheels import make_project, wheel

from stillhouse import Recipe

ROOT = Path(__file__).parents[1]
PROJECTS = {
    p.parent.name: tomllib.loads(p.read_text(encoding="utf-8"))["project"]
    for p in (ROOT / "plugins").glob("*/pyproject.toml")
}
PARTS = sorted(PROJECTS)
PLUGINS = [part for part in PARTS if "stillhouse.plugins" in PROJECTS[part]["entry-points"]]
"""The parts that are methods; the others bring commands."""
USES = {part: sorted(PROJECTS[part]["entry-points"]["stillhouse.plugins"]) for part in PLUGINS}
"""The names under which recipes find each part's methods."""


def ok(parts: Iterable[str]) -> dict[str, str]:
    """The status of what ``parts`` bring, where all is well."""
    return {use: "ok" for part in parts for use in USES[part]}


OUTSIDE = '''
"""A plugin by somebody else."""

from stillhouse import Plugin, Weight, hookimpl, plugin


@plugin
class Shrink(Plugin):
    """Keep the student's outputs small."""

    before = ("projector",)
    weight: Weight = 0.1

    @hookimpl
    def losses(self, step):
        return {"": step.student.output.square().mean()}
'''


class Environment:
    """A virtual environment of its own that sees this one's libraries, but none of Stillhouse's parts."""

    def __init__(self, path: Path) -> None:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(path)
        self.bin = path / ("Scripts" if os.name == "nt" else "bin")
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(path)}))
        # Everything of the outer environment but what the test is about: symbolic links to its packages.
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            ours = "stillhouse" in entry.name.lower()
            if not ours and not entry.name.endswith(".pth") and entry.name != "__pycache__":
                (self.site / entry.name).symlink_to(entry)

    def run(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [str(self.bin / "python"), *arguments],
            cwd=cwd,
            env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, *wheels: Path) -> None:
        """Install wheels, without an index."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        done = subprocess.run(
            [*pip, "--no-index", "--no-deps", "--disable-pip-version-check", *map(str, wheels)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def without(self, distribution: str) -> Iterator[None]:
        """Have the distribution's files away, as pip leaves it, for a while: pip itself takes seconds each way."""
        (found,) = metadata.distributions(name=distribution, path=[str(self.site)])
        away = self.site.parent / "away"
        away.mkdir(exist_ok=True)
        own = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
        assert len(own) > 1
        for name in own:
            (self.site / name).rename(away / name)
        try:
            yield
        finally:
            for name in own:
                (away / name).rename(self.site / name)

    def plugins(self, group: str = "stillhouse.plugins") -> dict[str, dict[str, str]]:
        """What the environment's ``stillhouse plugins --check`` finds of a group: of others than plugins what is broken."""
        rows = json.loads(self.run("-m", "stillhouse.cli", "plugins", "--check", "--json", check=False).stdout)
        return {row["use"]: row for row in rows if row["group"] == group}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The engine's and every first-party plugin's wheel."""
    into = tmp_path_factory.mktemp("wheels")
    return {part: wheel(ROOT / part, into) for part in ("engine", *(f"plugins/{p}" for p in PARTS))}


def write_recipe(folder: Path, plugins: list[dict[str, Any]], teacher: bool = True) -> Path:
    path = folder / "recipe.toml"
    path.write_text(Recipe.from_dict(tables(plugins=plugins, **({} if teacher else {"teacher": None}))).to_toml())
    return path


def test_parts_install_by_themselves_and_a_plugin_from_outside_joins_them(wheels: dict[str, Path], tmp_path: Path):
    environment = Environment(tmp_path / "env")
    environment.install(wheels["engine"])
    assert environment.plugins() == {}
    environment.install(*(wheels[f"plugins/{p}"] for p in PLUGINS))
    assert {use: row["status"] for use, row in environment.plugins().items()} == ok(PLUGINS)

    source = tmp_path / "outside"
    (source / "somebodys_shrink").mkdir(parents=True)
    about = make_project("somebodys-shrink", "shrink", ":Shrink", version="2.5", summary="Shrinks outputs")
    (source / "pyproject.toml").write_text(about)
    (source / "somebodys_shrink" / "__init__.py").write_text(OUTSIDE)
    (tmp_path / "built").mkdir()
    environment.install(wheel(source, tmp_path / "built"))
    found = environment.plugins()["shrink"]
    assert (found["distribution"], found["version"], found["status"]) == ("somebodys-shrink", "2.5", "ok")

    path = write_recipe(tmp_path, [FIVE["features"], FIVE["projector"], {"use": "shrink"}])
    told = json.loads(environment.run("-m", "stillhouse.cli", "explain", str(path), "--json", cwd=tmp_path).stdout)
    assert [p["name"] for p in told["plugins"]] == ["features", "shrink", "projector"]
    assert "shrink declares before = projector" in told["plugins"][2]["order"]
    out = tmp_path / "run"
    done = environment.run("-m", "stillhouse.cli", "train", str(path), "--out", str(out), "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["plugins"] == ["features", "shrink", "projector"]
    lock = json.loads((out / "lock.json").read_text())
    assert {p["distribution"]: p["version"] for p in lock["plugins"]}["somebodys-shrink"] == "2.5"

    # Break the outside plugin: it is reported, named where it is asked for, and in nobody's way.
    (environment.site / "somebodys_shrink" / "__init__.py").write_text("import nothing_of_this_name")
    found = environment.plugins()
    assert "nothing_of_this_name" in found["shrink"]["status"]
    assert all(row["status"] == "ok" for use, row in found.items() if use != "shrink")
    done = environment.run("-m", "stillhouse.cli", "explain", str(path), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "plugins[2].use (shrink): the plugin 'shrink' cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    environment.run("-m", "stillhouse.cli", "explain", str(path), "--plugins", "features,projector", cwd=tmp_path)


def test_a_part_may_bring_a_command_which_is_in_nobodys_way_when_it_breaks(wheels: dict[str, Path], tmp_path: Path):
    environment = Environment(tmp_path / "env")
    environment.install(wheels["engine"])
    assert "experiment" not in environment.run("-m", "stillhouse.cli", "--help").stdout
    environment.install(wheels["plugins/experiments"])
    done = environment.run("-m", "stillhouse.cli", "experiment", "--list", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "docs/experiments: there is no folder plans in it" in done.stderr
    (environment.site / "stillhouse_experiments" / "command.py").write_text("import nothing_of_this_name")
    text = environment.run("-m", "stillhouse.cli", "--help").stdout
    assert "train a recipe's student" in text
    assert "broken" in text
    assert environment.plugins() == {}
    assert "nothing_of_this_name" in environment.plugins("stillhouse.commands")["experiment"]["status"]
    done = environment.run("-m", "stillhouse.cli", "experiment", "--list", check=False)
    assert done.returncode == 2
    assert "nothing_of_this_name" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_any_one_plugin_the_others_work(wheels: dict[str, Path], tmp_path: Path):
    environment = Environment(tmp_path / "env")
    environment.install(*wheels.values())
    for gone in PLUGINS:
        rest = [p for p in PLUGINS if p != gone]
        links = "features" in rest and "projector" in rest
        usable = [p for p in FIVE if p in rest and (links or p in ("logits", "spectral"))]
        path = write_recipe(tmp_path, [FIVE[p] for p in usable])
        arguments = ["train", str(path), "--out", str(tmp_path / gone), "--quiet", "--json"]
        with environment.without(f"stillhouse-{gone}"):
            done = environment.run("-c", BOTH, *arguments, cwd=tmp_path)
        found, trained = (json.loads(text) for text in done.stdout.split(NEXT))
        assert {row["use"]: row["status"] for row in found if row["group"] == "stillhouse.plugins"} == ok(rest)
        assert trained["plugins"] == usable


NEXT = "next"
BOTH = f"""
import sys
from stillhouse.cli import main

main(["plugins", "--check", "--json"])
print({NEXT!r})
sys.exit(main(sys.argv[1:]))
"""
"""What is installed, and a run, in one process: reading torch takes longer than either."""


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("part", ["engine", *PLUGINS])
def test_the_engine_imports_no_plugin_and_no_plugin_another(part: str):
    folder = ROOT / "engine" if part == "engine" else ROOT / "plugins" / part
    own = {p.name for p in (folder / "src").iterdir()}
    files = list((folder / "src").rglob("*.py"))
    assert files
    for path in files:
        foreign = {n for n in imports(path) if n.startswith("stillhouse_")} - own
        assert not foreign, f"{path} imports {foreign}"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_requires_the_others_that_it_imports(part: str):
    required = {text.partition(">")[0].strip().replace("-", "_") for text in PROJECTS[part]["dependencies"]}
    for path in (ROOT / "plugins" / part / "src").rglob("*.py"):
        foreign = {n for n in imports(path) if n.startswith("stillhouse_")} - {f"stillhouse_{part}"}
        assert foreign <= required, path


@pytest.mark.parametrize("part", PARTS)
def test_plugins_use_nothing_private_of_the_engine(part: str):
    for path in (ROOT / "plugins" / part / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stillhouse."):
                assert not any(alias.name.startswith("_") for alias in node.names), path


def test_the_umbrella_names_every_part():
    text = (ROOT / "pyproject.toml").read_text()
    assert '"stillhouse @ {root:uri}/engine"' in text
    for part in PARTS:
        assert f'"stillhouse-{part} @ {{root:uri}}/plugins/{part}"' in text
