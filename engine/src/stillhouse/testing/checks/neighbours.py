"""Checks of a plugin among others: each installed one beside it, in both places; and among several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.plugin import Plugin, renamed
from stillhouse.entries import PLUGINS, installed
from stillhouse.errors import StillhouseError
from stillhouse.registry.plugins import kind_of, load_installed
from stillhouse.testing.checks.training import say_error
from stillhouse.testing.companions import make_example, pairs_for
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject, is_finite

__all__ = ["check_neighbours", "check_processes"]

_LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def check_neighbours(subject: Subject) -> Iterator[Finding | Note]:
    """Is its list taken, or refused in words, with each installed plugin before it and after it?

    The list is walked over and a step rehearsed; with ``slow`` it is trained, too.
    """
    if not subject.own_models:
        yield Note("tried on the kit's own models alone")
        return
    for found in installed(PLUGINS):
        try:
            cls = load_installed(found)
            neighbour = make_example(cls, f"beside-{found.use}")
        except StillhouseError as error:
            yield Note(f"{found.use}: not tried, for its own `example` does not make one: {error.faults[0]}")
            continue
        others = [p for p in subject.before if type(p).__name__ != "Pairs"]
        links = pairs_for(subject.cls, cls, *map(type, others))
        refused: dict[str, None] = {}
        for place, pair in {
            "before": [subject.make(), neighbour],
            "after": [neighbour, subject.make()],
        }.items():
            yield from _stand(subject, [*links, *others, *pair], f"{place} {found.use}", refused)
        for text in refused:
            yield Note(f"beside {found.use}: refused: {text}")


def _stand(subject: Subject, plugins: list[Plugin], when: str, refused: dict[str, None]) -> Iterator[Finding]:
    change = "train, or refuse the list: `conflicts`, `before`, `after`, or a StillhouseError in build"
    try:
        training = subject.prepare(plugins, {"run": {"epochs": 1}})
    except StillhouseError as error:
        refused.setdefault(str(error.faults[0]))
        return
    except Exception as error:  # noqa: BLE001 - whatever the two raise is the finding
        yield Finding(f"{when}: {say_error(error)}", change)
        return
    if not subject.slow:
        training.close()
        return
    try:
        trained = subject.finish(training)
    except Exception as error:  # noqa: BLE001 - likewise
        yield Finding(f"{when} it begins, and ends in {say_error(error)}", change)
        return
    if not is_finite(trained.state):
        yield Finding(f"{when}: the run leaves weights that are not finite", change)


def check_processes(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train in two processes?"""
    if not subject.has_recipe_name():
        yield Note(f"another process cannot import {subject.use}")
        return
    with tempfile.TemporaryDirectory() as folder:
        recipe = {**subject.recipe().to_dict(), "plugins": [_table(plugin) for plugin in subject.listed()]}
        file = Path(folder) / "recipe.toml"
        file.write_text(Recipe.from_dict(recipe, base=subject.base).to_toml(), encoding="utf-8")
        module: Any = sys.modules.get(subject.cls.__module__.split(".")[0])
        paths = [str(Path(module.__file__).parent), *sys.path] if getattr(module, "__file__", None) else sys.path
        done = subprocess.run(  # noqa: S603 - this Python, on the kit's own recipe
            [*_LAUNCH, "-m", "stillhouse", "train", str(file), "--quiet", "--out", str(Path(folder) / "run")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        if done.returncode:
            said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
            yield Finding(
                f"in two processes it ends in {said[:400]}",
                "have every process make the same calls; gather rows by stillhouse.distributed.processes",
            )


def _table(plugin: Plugin) -> dict[str, Any]:
    cls = type(plugin)
    use, distribution, _ = kind_of(cls)
    named = plugin.name or use
    path = use if distribution else f"{cls.__module__}:{cls.__qualname__}"
    return {"use": path, **unstructure(renamed(plugin, named))}
