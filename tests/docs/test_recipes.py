"""The recipes of the pages and those beside them load, and can be explained."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from support.imports import ROOT
from support.pages import block, fences, short

from stillhouse import Recipe, prepare
from stillhouse.config.recipe_file import read_tables
from stillhouse.registry.plugins import plugins_in_use
from stillhouse.training.explanation import describe, render_text


@pytest.mark.parametrize("path", sorted((ROOT / "docs/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_explained_before_anything_is_trained(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path))
    training = prepare(Recipe.load(path), write=False, train_teacher=False)
    assert "loss" in render_text(describe(training))
    training.close()
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs/recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_one(path: Path):
    assert Recipe.load(path).run.name == path.stem


def test_recipes_in_the_pages_load(documented_plugins: dict[str, str], tmp_path: Path):
    whole = {"data": {"name": "sklearn:digits"}, "student": {"model": "stillhouse.models:convnet"}}
    recipes = [(page, text) for page, text in fences("toml") if "project" not in tomllib.loads(text)]
    assert len(recipes) > 10
    for page, text in recipes:
        tables = tomllib.loads(text)
        if "include" in tables:
            absolute = {**tables, "include": [str(ROOT / "docs/recipes" / name) for name in tables["include"]]}
            (tmp_path / "recipe.json").write_text(json.dumps(absolute))
            tables = read_tables(tmp_path / "recipe.json")
        teacher = tables.get("teacher", {})
        if isinstance(teacher.get("recipe"), str):
            assert (ROOT / "docs/recipes" / teacher["recipe"]).exists(), short(page)
        try:
            plugins_in_use(Recipe.from_dict({**whole, **tables}, base=ROOT / "docs/recipes").plugins)
        except Exception as error:
            error.add_note(f"in {short(page)}:\n{text}")
            raise


def test_the_first_run_shows_a_shipped_recipe():
    shipped = tomllib.loads((ROOT / "docs/recipes/digits-vkd.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(block("docs/first-run.md", "toml", 'name = "digits-vkd"')) == shipped
