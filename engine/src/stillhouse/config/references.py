"""References of a recipe to Python objects, ``package.module:attribute``: models, data sets, tasks."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import Any

from stillhouse.config.trust import check_import
from stillhouse.entries import Group
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["import_object"]

_added: set[str] = set()
"""The folders that :func:`import_object` has put on ``sys.path``."""


def import_object(path: str, where: str, base: Path | None = None, group: Group | None = None) -> Any:
    """Import ``package.module:attribute``; the attribute may be dotted (``module:Class.method``).

    Installed modules come first, then the current folder, then ``base``; a folder is appended to ``sys.path`` only
    when the module is found there and nowhere before.

    Args:
        path: the object's path.
        where: the recipe's key, for the fault.
        base: the recipe's folder.
        group: what it is to be one of.

    Raises:
        StillhouseError: the path has another form, the module or the attribute is missing (with the nearest names),
            importing the module raises, another file of the same name is imported already, or a stored run names it
            and nobody registers it (:mod:`stillhouse.config.trust`).
    """
    module_name, colon, attribute = path.partition(":")
    names = [*module_name.split("."), *attribute.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise StillhouseError(f"must be package.module:attribute, got {path!r}", where=where)
    check_import(path, where, group)
    found = _import_module(module_name, where, base)
    for depth, name in enumerate(attribute.split(".")):
        try:
            found = getattr(found, name)
        except AttributeError:
            owner = ".".join(attribute.split(".")[:depth])
            place = f"module {module_name!r}" if not owner else f"{module_name}:{owner}"
            near = did_you_mean(name, (n for n in dir(found) if not n.startswith("_")))
            raise StillhouseError(f"{place} has no attribute {name!r}", where=where, hint=near) from None
    return found


def _import_module(name: str, where: str, base: Path | None) -> Any:
    root = name.partition(".")[0]
    folders = list(dict.fromkeys(p.resolve() for p in (Path.cwd(), base) if p is not None))
    _make_importable(root, folders, where)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise _make_import_error(name, where, error) from error
        raise StillhouseError(
            f"module {missing!r} not found", where=where, hint=_suggest_module(missing, folders)
        ) from None
    except (Exception, SystemExit) as error:
        raise _make_import_error(name, where, error) from error


def _make_import_error(name: str, where: str, error: BaseException) -> StillhouseError:
    return StillhouseError(f"importing {name!r} failed: {type(error).__name__}: {error}", where=where)


def _make_importable(root: str, folders: list[Path], where: str) -> None:
    importlib.invalidate_caches()  # the file may be younger than the import system's listing of its folder
    mine = next((f for f in folders if (f / f"{root}.py").is_file() or (f / root).is_dir()), None)
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):  # ValueError: a module without __spec__, such as __main__ in a console
        return
    if spec is None:
        if mine is not None:
            sys.path.append(str(mine))
            _added.add(str(mine))
        return
    # Two recipes in one process, each with a `models.py` beside it: Python would hand one's to both.
    origin = Path(spec.origin).resolve() if spec.origin and spec.has_location else None
    owner = None if origin is None else origin.parent.parent if origin.name == "__init__.py" else origin.parent
    if owner is None or mine is None or owner == mine or str(owner) not in _added:
        return
    if root in sys.modules:
        raise StillhouseError(
            f"the module {root!r} exists twice: {origin} is loaded, {mine} has another",
            where=where,
            hint="give one of them another name",
        )
    if str(mine) in sys.path:
        sys.path.remove(str(mine))
    sys.path.insert(sys.path.index(str(owner)), str(mine))
    _added.add(str(mine))


def _suggest_module(missing: str, folders: list[Path]) -> str:
    parent, _, _ = missing.rpartition(".")
    if parent:
        paths = getattr(sys.modules.get(parent), "__path__", [])
        return did_you_mean(missing, (f"{parent}.{m.name}" for m in pkgutil.iter_modules(paths)))
    near = did_you_mean(missing, (m.name for m in pkgutil.iter_modules()))
    looked = "looked among the installed modules and in " + ", ".join(str(f) for f in folders)
    return f"{near} {looked}" if near.startswith("did you mean") else looked
