"""The generated parts of the pages are up to date, and whole; the other tests of the pages are in ``docs``.

``python tests/test_docs.py`` writes them anew: what stands between ``<!-- generated: ... -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import attrs
import pytest
from support.generated import SPECS, TASK_KINDS, attribute_texts, keys, regenerated
from support.imports import ROOT, modules
from support.pages import PAGES, SHOWN, short

from stillhouse import Recipe
from stillhouse.cli.parser import make_parser
from stillhouse.contract.hookspecs import hook_arguments


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_generated_parts_are_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = page.read_text(encoding="utf-8")
    assert text == regenerated(text), "run `python tests/test_docs.py`"


def test_every_key_of_a_recipe_is_explained():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name, kind in SPECS.items():
        assert f"generated: keys {name} " in text
        assert attribute_texts(kind).keys() >= {key.name for key in keys(kind)}
    for table in attrs.fields(Recipe):
        assert f"[{table.name}]" in text, table.name


def test_every_task_and_its_options_are_explained():
    text = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    for task, kind in TASK_KINDS.items():
        assert f"| `{task}` |" in text
        assert f"generated: keys {kind.__name__} " in text
        assert attribute_texts(kind).keys() >= {key.name for key in keys(kind)}


def test_the_reference_names_what_is_there():
    assert len(SHOWN) > 80
    for name in SHOWN:
        module, _, attribute = name.rpartition(".")
        assert name in modules() or hasattr(import_module(module), attribute), name


def test_every_hook_stands_there_with_its_exact_arguments():
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    shown = re.findall(r"^### `(\w+)\((.*)\)`$", text, re.MULTILINE)
    assert {name: tuple(filter(None, arguments.split(", "))) for name, arguments in shown} == hook_arguments()


def test_the_commands_page_has_every_command():
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    (commands,) = [a.choices for a in make_parser()._actions if isinstance(a.choices, dict)]
    assert all(f"<!-- generated: help {name} -->" in text for name in commands)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    for each in PAGES:
        before = each.read_text(encoding="utf-8")
        after = regenerated(before)
        if after != before:
            each.write_text(after, encoding="utf-8")
            print(short(each))
