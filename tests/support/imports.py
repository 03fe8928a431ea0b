"""The code as a graph of imports, of any kind: at run time, for types, inside functions."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sources() -> dict[str, Path]:
    """The source folder of each package: the engine's first, then the plugins'."""
    folders = [ROOT / "engine" / "src", *sorted(ROOT.glob("plugins/*/src"))]
    return {path.parent.name: folder for folder in folders for path in folder.glob("*/__init__.py")}


@cache
def modules() -> dict[str, Path]:
    """Every module of engine and plugins by its dotted name; a package by its ``__init__.py``."""
    found = {}
    for folder in sources().values():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of ours that ``module`` imports; ``from package import name`` counts for the package or its module."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{module} imports by a relative path"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules() else node.module)
    return frozenset(found & modules().keys() - {module})


def packages() -> list[str]:
    """The packages among the engine's modules."""
    return [name for name, path in modules().items() if name.startswith("stillhouse.") and path.name == "__init__.py"]


def is_public(module: str) -> bool:
    """Whether the last line of a package's docstring says that ``module`` is part of the contract."""
    if "." not in module:
        return True
    package, _, name = module.rpartition(".")
    if module in packages():
        return _says(module, "this package") or _says(module, "all") or _says(package, name)
    return _says(package, name) or _says(package, "all")


def _says(package: str, name: str) -> bool:
    return name in public_names(package)


def docstring_of(module: str) -> str:
    """A module's docstring."""
    return ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8"))) or ""


@cache
def public_names(package: str) -> tuple[str, ...]:
    """The names that the line ``Public: ...`` of a package's docstring lists; "none" is no name."""
    found = re.search(r"^Public: ([^.]+)\.$", docstring_of(package), re.MULTILINE)
    return tuple(re.split(r",\s+", found[1])) if found and found[1] != "none" else ()


@cache
def contracts() -> dict[str, dict]:
    """import-linter's contracts, by their ids, and under ``""`` what they have in common."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {contract["id"]: contract for contract in told["contracts"]} | {"": told}
