"""``package.module:attribute``: found beside the recipe, and every way of not being found said plainly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.config import references as importing
from stillhouse.config.references import import_object
from stillhouse.errors import StillhouseError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what importing did to the interpreter."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importing, "_added", set())
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def fault_of(path: str, base: Path | None = None) -> str:
    with pytest.raises(StillhouseError) as caught:
        import_object(path, "student.model", base)
    (fault,) = caught.value.faults
    assert fault.where == "student.model"
    return str(fault)


def test_finds_installed_objects_and_dotted_attributes() -> None:
    assert import_object("collections.abc:Mapping.get", "w").__name__ == "get"
    assert import_object("stillhouse.errors:StillhouseError", "w") is StillhouseError


def test_finds_modules_in_the_current_folder_first_then_beside_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, base = tmp_path / "here", tmp_path / "base"
    for folder in (here, base):
        folder.mkdir()
        (folder / "sh_both.py").write_text(f"place = {folder.name!r}")
    (base / "sh_mine.py").write_text("class Net: size = 3")
    monkeypatch.chdir(here)
    path = list(sys.path)
    assert import_object("sh_mine:Net.size", "w", base) == 3
    assert sys.path == [*path, str(base)]
    assert import_object("sh_both:place", "w", base) == "here"


def test_a_namesake_beside_another_recipe_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sh_namesake.py").write_text(f"place = {name!r}")
    assert import_object("sh_namesake:place", "w", tmp_path / "one") == "one"
    text = fault_of("sh_namesake:place", tmp_path / "two")
    assert "exists twice" in text
    assert str(tmp_path / "one" / "sh_namesake.py") in text
    assert import_object("sh_namesake:place", "w", tmp_path / "one") == "one"


@pytest.mark.parametrize("path", ["convnet", "a b:c", "module:", ":thing", "pkg/mod.py:f", "a..b:c", ""])
def test_a_malformed_path_is_said(path: str) -> None:
    assert f"must be package.module:attribute, got {path!r}" in fault_of(path)


def test_missing_things_name_the_nearest(tmp_path: Path) -> None:
    assert "no attribute 'StillhouseEror' (did you mean 'StillhouseError'" in fault_of(
        "stillhouse.errors:StillhouseEror"
    )
    assert "module 'stillhouse.erors' not found (did you mean 'stillhouse.errors'" in fault_of("stillhouse.erors:X")
    text = fault_of("sh_nowhere_at_all:f", tmp_path)
    assert "module 'sh_nowhere_at_all' not found" in text
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('broken inside')", "importing 'sh_broken' failed: ValueError: broken inside"),
        (
            "import sh_dependency_not_there",
            "importing 'sh_broken' failed: ModuleNotFoundError: No module named 'sh_dep",
        ),
        ("import sys; sys.exit(3)", "importing 'sh_broken' failed: SystemExit: 3"),
        ("def f(:", "importing 'sh_broken' failed: SyntaxError"),
    ],
)
def test_a_module_that_fails_says_its_error(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "sh_broken.py").write_text(source)
    assert said in fault_of("sh_broken:f", tmp_path)
