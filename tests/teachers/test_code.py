"""Code that no version tells is known by its content."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse import Recipe, prepare
from stillhouse.registry.plugins import plugins_in_use
from stillhouse.teachers.code import hash_code

MODEL = """
from support import TinyNet

def model(num_classes, in_channels):
    return TinyNet(num_classes, in_channels)
"""


def hashes(made: Recipe) -> dict[str, str]:
    return hash_code(made, plugins_in_use(made.plugins, made.base))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module beside a recipe; called with its text, it is as after a restart."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> dict[str, Any]:
        (tmp_path / "own_models.py").write_text(text, encoding="utf-8")
        sys.modules.pop("own_models", None)
        from stillhouse.teachers import code

        code._hash_files.cache_clear()
        return {"model": "own_models:model"}

    yield write
    sys.modules.pop("own_models", None)


def test_libraries_and_the_engine_are_known_by_their_versions():
    made = recipe(
        FEATURES, student={"model": "stillhouse.models:convnet"}, data={"name": "sklearn:digits"}, teacher=None
    )
    assert set(hashes(made)) == {"plugins.features features"}


def test_what_was_not_imported_yet_is_hashed_once_it_is(own_module: Any):
    made = recipe(student=own_module(MODEL), teacher=None)
    assert "student own_models:model" not in hashes(made)
    prepare(made, write=False)
    assert "student own_models:model" in hashes(made)


def test_a_changed_line_is_another_code_and_the_same_text_the_same(own_module: Any):
    made = recipe(student=own_module(MODEL), teacher=None)
    found = []
    for text in (MODEL, MODEL + "# changed", MODEL):
        own_module(text)
        prepare(made, write=False)
        found.append(hashes(made)["student own_models:model"])
    assert found[0] == found[2] != found[1]


def test_a_teacher_of_other_code_is_trained_anew(own_module: Any, tmp_path: Path):
    own = recipe(run__name="t", run__epochs=1, teacher=None, student=own_module(MODEL))
    made = recipe(FEATURES, teacher={"recipe": own.to_dict()})
    for text, count in ((MODEL, 1), (MODEL, 1), (MODEL + "# another activation, say", 2)):
        own_module(text)
        prepare(made, write=False)
        assert len([p for p in (tmp_path / "cache" / "teachers").iterdir() if p.is_dir()]) == count
