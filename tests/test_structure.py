"""The house: no circle of imports, small files, a minimal engine that is minimal, plugins that import public modules alone.

The floors themselves are checked by import-linter (``make lint``); here is what its contracts leave out, and that they name
what is there.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter

import pytest
from support.imports import ROOT, contracts, imports_of, is_public, modules, packages, public_names, sources
from support.pages import SHOWN

ENGINE = ROOT / "engine" / "src" / "stillhouse"
PLUGINS = [package for package in sources() if package != "stillhouse"]
APPLICATIONS = ["stillhouse_experiments"]
"""Distributions that bring commands, and no plugin: they may use plugins, as whoever writes an experiment does."""
MINIMAL = ("contract", "registry", "loop")


def lines(package: str) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ENGINE / package).rglob("*.py"))


def test_there_is_no_circle_of_imports_of_any_kind():
    # A package's own module stands for its names: it may import its modules, and they nothing from it.
    try:
        TopologicalSorter({module: imports_of(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_module_is_too_long_to_be_read_at_a_sitting():
    long = {name for name, path in modules().items() if len(path.read_text(encoding="utf-8").splitlines()) > 300}
    assert not long


def test_no_test_file_is_too_long_either():
    found = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tests").rglob("*.py")}
    long = {name for name, path in found.items() if len(path.read_text(encoding="utf-8").splitlines()) > 300}
    assert not long


def test_the_minimal_engine_can_be_read_in_an_hour():
    assert sum(map(lines, MINIMAL)) < 4000


def test_the_package_root_has_few_files():
    assert len([path for path in ENGINE.iterdir() if path.is_file()]) <= 14


def test_the_docs_hold_pages_and_no_application():
    assert len(list((ROOT / "docs").rglob("*.py"))) <= 5


@pytest.mark.parametrize("package", packages())
def test_a_package_says_what_it_may_import_and_what_is_public(package: str):
    text = modules()[package].read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
    assert re.search(r"^Imports: .+\.$", text, re.MULTILINE)
    assert re.search(r"^Public: [^.]+\.$", text.strip(), re.MULTILINE)
    for name in public_names(package):
        assert name in ("all", "this package") or f"{package}.{name}" in modules(), name


@pytest.mark.parametrize("package", PLUGINS)
def test_plugins_import_public_modules_alone(package: str):
    for module in (name for name in modules() if name.split(".")[0] == package):
        engine = [name for name in imports_of(module) if name.split(".")[0] == "stillhouse"]
        assert [name for name in engine if not is_public(name)] == [], module


def test_the_contracts_of_the_linter_name_what_is_there():
    told = contracts()
    assert told[""]["root_packages"] == list(sources())
    floors = told["floors"]["layers"]
    assert floors[0].split(" | ") == APPLICATIONS
    assert floors[1].split(" | ") == [package for package in PLUGINS if package not in APPLICATIONS]
    named = {name for floor in floors[2:] for name in re.split(r" [|:] ", floor)}
    there = {name for name in modules() if name.startswith("stillhouse.") and name.count(".") == 1}
    assert named == there - {"stillhouse.__main__"}
    assert "ignore_imports" not in told["floors"]
    assert told["public"]["source_modules"] == PLUGINS


def test_the_linter_lets_plugins_import_what_the_packages_call_public():
    told = contracts()["public"]
    # A package that is public as a whole needs no line, and is not forbidden.
    some = [name for name in packages() if name.count(".") == 1 and public_names(name) != ("all",)]
    assert told["forbidden_modules"] == sorted(f"{name}.*" for name in some)
    allowed = [f"{name}.{inner}" for name in some for inner in public_names(name) if inner != "this package"]
    assert told["ignore_imports"] == sorted(f"** -> {name}" for name in allowed)


def test_the_reference_shows_public_modules_alone():
    for name in SHOWN:  # a module, or what one exports: of the same name perhaps, as `nets.detector`
        assert any(is_public(module) for module in (name, name.rpartition(".")[0]) if module in modules()), name
