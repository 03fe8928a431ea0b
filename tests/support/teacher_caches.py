"""Runs that read their teacher into a cache, as they are asked to, and a cache folder of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stillhouse import Assembly, Plugin, hookimpl, plugin, prepare
from stillhouse.teachers.cache import CacheSpec, TeacherCache, teacher_cache
from support import recipe

SPEC = CacheSpec(taps=("body",), outputs=True, moments=True)


def run_of(
    spec: CacheSpec = SPEC, *, keep: bool = False, inspect_only: bool = False, **changes: Any
) -> tuple[Assembly, TeacherCache]:
    """A run that reads its teacher into a cache at assembly; ``keep``: the teacher stays."""
    held: list[TeacherCache] = []

    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        requires = ("teacher",)

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            held.append(teacher_cache(assembly, spec))
            if not keep:
                assembly.release_teacher(self)

    training = prepare(recipe(**changes), plugins=[Reader()], write=False, train_teacher=not inspect_only)
    return training.assembly, held[0]


def features_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "own"))
    return tmp_path / "own" / "features"


def cache_of(teacher: nn.Module, spec: CacheSpec = SPEC, **changes: Any) -> TeacherCache:
    held: list[TeacherCache] = []

    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            held.append(teacher_cache(assembly, spec))

    prepare(recipe(**changes), plugins=[Reader()], teacher=teacher, write=False)
    return held[0]
