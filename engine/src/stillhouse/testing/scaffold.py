"""A package for one plugin from the kit's template, and brought up to a later version of it: by copier."""

from __future__ import annotations

import keyword
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from stillhouse.config.names import to_snake_case
from stillhouse.contract import VERSION
from stillhouse.entries import PLUGINS, TASKS, installed
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.version import __version__

__all__ = ["KINDS", "Kind", "make_package", "update_package"]

Kind = Literal["output", "loss", "transform", "links", "student", "teacher", "observer", "task"]
KINDS: dict[Kind, str] = {
    "output": "Adds a loss term on the outputs",
    "loss": "Adds a loss term on pairs of features",
    "transform": "Centres the teacher's features before they are compared",
    "links": "Pairs layers of student and teacher",
    "student": "Adds noise to layers of the student in training",
    "teacher": "Softens the teacher's answers",
    "observer": "Writes what is measured into a file",
    "task": "Classifies with smoothed labels",
}
"""The kinds of packages, each with what its skeleton does."""

_TEMPLATE = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_OWN = ("pyproject.toml", "README.md", "*.toml", ".gitignore", "__init__.py", "plugin.py", "test_plugin.py")
"""What is the author's once it is there; everything else follows the template."""

_WITH_TEACHER: tuple[Kind, ...] = ("output", "loss", "transform", "links", "teacher")


def make_package(name: str, kind: Kind, *, folder: str | Path | None = None, summary: str = "") -> Path:
    """Make a package for one plugin: its pyproject, a skeleton that works, its tests, a recipe to train, a workflow for CI.

    Args:
        name: what recipes are to call it: small letters, digits, - and _.
        kind: which skeleton.
        folder: where it goes; ``stillhouse-NAME`` in the working directory by default.
        summary: one sentence without its full stop; what the skeleton does by default.

    Returns:
        The folder.

    Raises:
        StillhouseError: the name cannot be, or is taken; the folder is not empty; copier is not installed.
    """
    if kind not in get_args(Kind):
        raise StillhouseError(f"no kind is called {kind!r}", where="--kind", hint=did_you_mean(kind, KINDS))
    _check_name(name, kind)
    target = Path(folder) if folder is not None else Path(f"stillhouse-{name.replace('_', '-')}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StillhouseError("is there already, and not empty", where=str(target), hint="another folder: --out")
    _copy(target, name, kind, summary.strip().rstrip(".") or KINDS[kind])
    return target


def update_package(folder: str | Path) -> list[str]:
    """Bring a package up to this version of the template, but for the files that are its author's.

    Workflow and conformance test follow the template; code, README, recipes and pyproject.toml stay as they are, and are
    made where they are missing.

    Returns:
        The files that are another than before, sorted.

    Raises:
        StillhouseError: no package of this template; copier is not installed.
    """
    target = Path(folder)
    try:
        tables = tomllib.loads((target / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StillhouseError(f"cannot be read: {error}", where=str(target / "pyproject.toml")) from error
    made = tables.get("tool", {}).get("stillhouse", {})
    name, kind = made.get("name"), made.get("kind")
    if not isinstance(name, str) or kind not in get_args(Kind) or not _NAME.fullmatch(name):
        raise StillhouseError(
            "has no table [tool.stillhouse] with name and kind",
            where=str(target / "pyproject.toml"),
            hint="`stillhouse plugin new` writes it",
        )
    before = _read(target)
    summary = str(tables.get("project", {}).get("description", "")).partition(": a Stillhouse")[0]
    _copy(target, name, kind, summary or KINDS[kind], keep=_OWN)
    after = _read(target)
    return sorted(path for path in after if before.get(path) != after[path])


def _read(folder: Path) -> dict[str, bytes]:
    names = [*(folder / ".github").rglob("*"), *(folder / "src").rglob("*"), *(folder / "tests").rglob("*")]
    files = [path for path in [*folder.glob("*"), *names] if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _check_name(name: str, kind: Kind) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise StillhouseError(
            f"{name!r} cannot name a plugin", hint="small letters, digits, - and _, a letter first: contrastive-crd"
        )
    for found in installed(TASKS if kind == "task" else PLUGINS):
        if found.use == name:
            raise StillhouseError(
                f"{found.origin} brings {name!r} already", hint="another name: two of one are told apart at every use"
            )


def _copy(target: Path, name: str, kind: Kind, summary: str, *, keep: tuple[str, ...] = ()) -> None:
    try:
        from copier import run_copy
    except ImportError as error:
        raise StillhouseError(
            "needs copier, which is not installed", hint="pip install 'stillhouse[kit]', or pip install copier"
        ) from error
    snake = to_snake_case(name).replace("-", "_")
    data: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "distribution": f"stillhouse-{name.replace('_', '-')}",
        "module": f"stillhouse_{snake}",
        "class_name": "".join(part.capitalize() for part in snake.split("_")),
        "summary": summary,
        "contract": VERSION,
        "engine": __version__,
    }
    left_out = ["tests/test_conformance.py"] if kind == "task" else []
    left_out += [] if kind in _WITH_TEACHER else ["teacher.toml"]
    for part in ("common", f"kinds/{kind}"):
        run_copy(
            str(_TEMPLATE),
            str(target),
            data={**data, "part": part},
            defaults=True,
            overwrite=True,
            quiet=True,
            exclude=["copier.yml", "__pycache__", *left_out],
            skip_if_exists=list(keep),
        )
