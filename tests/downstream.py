"""Plugins of outsiders, against the oldest and the newest libraries: built as wheels, installed into a clean environment, run.

The plugins are those that the documentation writes out and three of the pack, each in a folder of its own with its own
pyproject.toml. Each has to be found, to train, and to pass the conformance kit, with libraries as the command says:

- ``python tests/downstream.py lowest``: every requirement at its lower bound, as the parts' pyproject.toml state them;
- ``newest``: what the index has. Both take some gigabytes and minutes, and ``make test-downstream`` does them;
- ``installed``: those of the Python that runs this, lent to the environment. They are the newest where ``make`` has just set that
  up, as ``.ci/run`` does; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import tomllib
from pathlib import Path

from support.classics import LISTS, digits, read
from support.environments import call, lend, lowest, make_environment
from support.imports import ROOT
from support.pages import DOCUMENTED, documented
from support.wheels import make_project, wheel

PACK = ("at", "crd", "dkd")
"""Those of the pack: on links, with a bank that grows with the data, on outputs."""
PARTS = ("engine", "plugins/features")
"""Ours that are installed beside them; the pack itself is not."""
LISTED = {
    "similarity": (read("stage3"), {"use": "similarity"}),
    "center": (read("stage3"), {"use": "center"}, {"use": "similarity"}),
    **{use: LISTS[use] for use in PACK},
}
TRY = """
import contextlib, sys
from stillhouse.cli import main

for use in sys.argv[1:]:
    with contextlib.chdir(use):
        for command in ("train recipe.toml --out run --quiet", f"plugin check {use} --recipe recipe.toml"):
            print(use, command, flush=True)
            if main(command.split()):
                sys.exit(1)
"""
"""What is run in the environment: one process, which reads torch once."""
VERSIONS = """
from importlib.metadata import version

print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pytorch-ignite", "pluggy")))
"""
LOCAL = re.compile(r"^from stillhouse_classics\.(\w+) import", re.MULTILINE)


def write_documented(use: str, folder: Path) -> None:
    """A plugin of the pages, as they say to save it."""
    source, about = documented(use)
    (folder / f"stillhouse_{use}.py").write_text(source, encoding="utf-8")
    (folder / "pyproject.toml").write_text(about, encoding="utf-8")


def write_classic(use: str, folder: Path) -> None:
    """A method of the pack with the modules that it imports, as a distribution of its own."""
    pack = ROOT / "plugins" / "classics"
    points = tomllib.loads((pack / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    target = points["stillhouse.plugins"][use].removeprefix("stillhouse_classics.")
    package = folder / f"outside_{use}"
    package.mkdir()
    (package / "__init__.py").write_text(f'"""{use}."""\n', encoding="utf-8")
    left = [target.partition(":")[0]]
    while left:
        name = left.pop()
        source = (pack / "src" / "stillhouse_classics" / f"{name}.py").read_text(encoding="utf-8")
        (package / f"{name}.py").write_text(source.replace("stillhouse_classics", package.name), encoding="utf-8")
        left += [other for other in LOCAL.findall(source) if not (package / f"{other}.py").exists()]
    about = make_project(f"outside-{use}", use, f".{target}")
    (folder / "pyproject.toml").write_text(about, encoding="utf-8")


def build(into: Path) -> list[Path]:
    """The wheels of :data:`PARTS` and of every plugin."""
    wheels = into / "wheels"
    wheels.mkdir()
    made = [wheel(ROOT / part, wheels) for part in PARTS]
    for use in LISTED:
        folder = into / use
        folder.mkdir()
        (write_documented if use in DOCUMENTED else write_classic)(use, folder)
        made.append(wheel(folder, wheels))
        recipe = digits(*LISTED[use], data={"name": "sklearn:digits", "batch_size": 10, "per_class": 2})
        (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    return made


def prepare(environment: Path, versions: str, wheels: list[Path]) -> Path:
    """The Python of ``environment``, made where it is not there, with the wheels and the libraries that ``versions`` names."""
    python = make_environment(environment, pip=versions != "installed")
    if versions == "installed":
        lend(python)
        pip = (sys.executable, "-m", "pip", "--python", python)
    else:
        pip = (python, "-m", "pip")
        bounds = wheels[0].parent / "bounds.txt"
        bounds.write_text("\n".join(lowest(PARTS) if versions == "lowest" else []), encoding="utf-8")
        how = () if versions == "lowest" else ("--upgrade", "--upgrade-strategy", "eager")
        call(*pip, "install", "--quiet", "--no-compile", *how, "--constraint", bounds, *wheels)
    # Of a version that is there already pip keeps the old wheel.
    call(*pip, "install", "--quiet", "--no-compile", "--force-reinstall", "--no-deps", *wheels)
    call(*pip, "check")
    return python


def main() -> None:
    """Build, install and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", choices=("lowest", "newest", "installed"))
    parser.add_argument("--environment", type=Path, metavar="DIR", help="keep the environment there, or use that one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        into = Path(name)
        environment = (arguments.environment or into / "environment").resolve()
        python = prepare(environment, arguments.versions, build(into))
        stillhouse = (python, "-m", "stillhouse")
        call(*stillhouse, "plugins", "--check", cwd=into)
        call(python, "-c", TRY, *LISTED, cwd=into)
        print(call(python, "-c", VERSIONS).strip())
    print(f"{len(LISTED)} plugins were built, installed, trained and checked with the {arguments.versions} libraries")


if __name__ == "__main__":
    main()
