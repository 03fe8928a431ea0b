"""Hashes of code that no library's version tells: plugins, tasks, data sets and models of somebody's own."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from stillhouse.config.recipe import Recipe
from stillhouse.entries import DATA, MODELS, TASKS, find_scheme
from stillhouse.registry.order import Active

__all__ = ["hash_code", "hash_package"]

_LIBRARIES = ("stillhouse", "torch", "torchvision", "timm", "transformers")
"""Packages whose version says what their code is."""
_MOST_FILES = 2000
"""Of a package that is hashed whole; of a larger one it is the module alone."""


def hash_code(recipe: Recipe, actives: Sequence[Active]) -> dict[str, str]:
    """Hashes of the code that no library's version tells, by what it is for and the path that names it."""
    found = {f"plugins.{a.name} {a.use}": hash_package(type(a.plugin).__module__) for a in actives}
    models = {"student": recipe.student.model, **{name: spec.model for name, spec in recipe.all_teachers.items()}}
    groups = {"task": (TASKS, recipe.task.name), "data": (DATA, recipe.data.name)}
    groups |= {name: (MODELS, model) for name, model in models.items() if model}
    for label, (group, text) in groups.items():
        scheme = find_scheme(group, text)
        module = (scheme[0].target if scheme is not None else text).partition(":")[0]
        found[f"{label} {text}"] = hash_package(module)
    return {name: digest for name, digest in found.items() if digest}


def hash_package(module: str) -> str:
    """A hash of the Python files of the package that ``module`` is in; empty: a library's, or no file."""
    top = module.partition(".")[0]
    own = getattr(sys.modules.get(module), "__file__", None)
    origin = getattr(sys.modules.get(top), "__file__", None) or own
    if top in _LIBRARIES or origin is None:
        return ""
    return _hash_files(Path(origin), Path(own or origin))


@cache
def _hash_files(origin: Path, own: Path) -> str:
    """The same, by the file of the package and that of the module. Once a process: what is imported stays as it is."""
    files = [origin]
    if origin.name == "__init__.py":
        every = sorted(origin.parent.rglob("*.py"))
        files = every if len(every) <= _MOST_FILES else [own]
    digest = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError:
            continue
        digest.update(f"\0{file.relative_to(origin.parent)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
