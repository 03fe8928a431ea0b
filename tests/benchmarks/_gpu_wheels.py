"""Wheels for a machine that reaches no package index: gather them on one that does, install them on the other.

Only the standard library is used, since nothing else may be there yet. What the machine has already is left as it is:
what it lacks goes into a folder of its own, which is put on Python's path.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

__all__ = ["WheelsError", "install", "make_wheels"]

ROOT = Path(__file__).parents[2]
LIMIT_MIB = 60
BRINGS_TORCH = ("pytorch-ignite",)
"""Require torch, and so are taken without what they require: packaging besides, which is taken anyway."""
_PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64", "linux_x86_64"]


class WheelsError(RuntimeError):
    """pip could not do it; the message has its last lines."""


def _parts() -> list[Path]:
    return [ROOT / "engine", *sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml"))]


def _requirements() -> list[str]:
    """What engine, plugins and tests require of others, but for torch and torchvision, which the machine must have."""
    given: list[str] = []
    for part in _parts():
        given += tomllib.loads((part / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    given += [text for text in groups["test"] if isinstance(text, str)]
    own = {"torch", "torchvision"} | {f"stillhouse{'' if p.name == 'engine' else '-' + p.name}" for p in _parts()}
    return [text for text in dict.fromkeys(given) if _name(text) not in own]


def _name(requirement: str) -> str:
    """A requirement's or a distribution's name as indexes compare it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found.group() if found else requirement).lower()


def _pip(*arguments: str, alone: bool = False) -> None:
    environment = dict(os.environ)
    if alone:  # neither an index nor folders that this machine's own settings name
        environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")} | {
            "PIP_CONFIG_FILE": os.devnull
        }
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelsError("\n".join((done.stderr or done.stdout).strip().splitlines()[-6:]))


def _resolved(*arguments: str, alone: bool = False) -> list[dict[str, Any]]:
    """What pip would install, by its own resolver."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip("install", "--dry-run", "--report", str(report), *arguments, alone=alone)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return found


def make_wheels(folder: Path, python: str, have: Collection[str]) -> str:
    """Gather into ``folder`` what a Linux x86-64 machine with torch and torchvision may lack; say what it weighs.

    Args:
        folder: made if it is not there.
        python: the other machine's version: ``3.12``.
        have: distributions that it has: left out, with what only they require.

    Raises:
        WheelsError: pip finds no wheel for one of them.
    """
    left_out = {_name(name) for name in have}
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    target += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    roots = [text for text in _requirements() if _name(text) not in left_out]
    plain = [text for text in roots if _name(text) not in BRINGS_TORCH]
    pins = [text for text in roots if _name(text) in BRINGS_TORCH]
    with tempfile.TemporaryDirectory() as nowhere:
        # pip builds our parts in an environment of its own, which sees nothing of what the machine has.
        builds = _resolved("--ignore-installed", "--target", nowhere, *target, *_builds_require())
        left_out -= {_name(item["metadata"]["name"]) for item in builds}
        for item in _resolved("--ignore-installed", "--target", nowhere, *target, *plain):
            name, version = item["metadata"]["name"], item["metadata"]["version"]
            if _name(name) not in left_out:
                pins.append(f"{name}=={version}")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):  # two versions of one distribution would stop the installation
        old.unlink()
    _pip("download", "--no-deps", "--dest", str(folder), *target, *pins)
    sizes = sorted(((p.stat().st_size / 2**20, p.name) for p in folder.glob("*.whl")), reverse=True)
    total = sum(size for size, _ in sizes)
    lines = [f"{size:7.2f} MiB  {name}" for size, name in sizes]
    lines.append(f"{total:7.2f} MiB  in {len(sizes)} wheels for Python {python}, without torch and torchvision")
    if total > LIMIT_MIB:
        lines.append(f"more than {LIMIT_MIB} MiB: leave out what the machine has, --have numpy,pillow,scipy,matplotlib")
    return "\n".join(lines)


def install(folder: Path) -> Path:
    """Install engine, plugins and whatever they lack here into a folder of their own, from wheels in ``folder`` alone.

    The folder is put on the path of this process and of those it starts, and goes when this process ends.

    Raises:
        WheelsError: a distribution is missing in ``folder``, or pip is too old for ``--report`` (23 has it).
    """
    if not folder.is_dir():
        raise WheelsError(f"there is no folder {folder}: make it with --make-wheels {folder}")
    site = Path(tempfile.mkdtemp(prefix="stillhouse-site-"))
    atexit.register(shutil.rmtree, site, ignore_errors=True)
    offline = ["--no-index", "--find-links", str(folder.resolve())]
    parts = [str(part) for part in _parts()]
    lacking = _resolved(*offline, *parts, *_tests_require(), alone=True)
    others = [item["download_info"]["url"] for item in lacking if "dir_info" not in item["download_info"]]
    _pip("install", *offline, "--no-deps", "--no-compile", "--target", str(site), *parts, *others, alone=True)
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    importlib.invalidate_caches()
    print(f"installed for this run: {', '.join(_listed(lacking))}", flush=True)
    return site


def _builds_require() -> list[str]:
    """What building engine and plugins requires."""
    tables = [tomllib.loads((part / "pyproject.toml").read_text(encoding="utf-8")) for part in _parts()]
    return sorted({text for table in tables for text in table["build-system"]["requires"]})


def _tests_require() -> list[str]:
    names = ("pytest", "pytest-timeout", "hypothesis")
    return [text for text in _requirements() if _name(text) in names]


def _listed(items: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(f"{item['metadata']['name']} {item['metadata']['version']}" for item in items)
