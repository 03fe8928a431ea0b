"""Recipes: TOML to types and back, and every fault of a file said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, tables

from stillhouse import Recipe, StillhouseError
from stillhouse.training.selection import choose_plugins, load_recipe

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"

MINIMAL = '[data]\nname = "sklearn:digits"\n[student]\nmodel = "stillhouse.models:convnet"\n'


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_recipe_survives_its_own_toml(tmp_path: Path):
    first = Recipe.from_dict(tables(plugins=[FEATURES, {"use": "projector", "kind": "mlp"}]))
    again = Recipe.load(write(tmp_path / "again.toml", first.to_toml()))
    assert again == first
    assert again.digest() == first.digest()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_load(path: Path):
    assert Recipe.load(path).run.epochs > 0


def test_every_fault_of_a_file_is_said_at_once_with_its_path_and_the_nearest_name(tmp_path: Path):
    text = """
    [run]
    epochs = "ten"
    seeds = 1
    precision = "float31"
    [dat]
    [data]
    name = "sklearn:digits"
    batch_size = 3.5
    [student]
    args = {}
    [teacher]
    model = "x:y"
    random = true
    pretrained = true
    [schedule]
    warmup = 3.0
    """
    with pytest.raises(StillhouseError) as caught:
        Recipe.load(write(tmp_path / "bad.toml", text))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(tmp_path / "bad.toml") + ": ") for line in lines)
    said = "\n".join(lines)
    for part in (
        "run.epochs: must be a whole number, got 'ten'",
        "run.seeds: unknown key 'seeds' (did you mean 'seed'?)",
        "run.precision: must be one of 'float32', 'bfloat16', 'float16', got 'float31' (did you mean 'float32'?)",
        "dat: unknown key 'dat' (did you mean 'data'?)",
        "data.batch_size: must be a whole number, got 3.5",
        "student.model: missing key",
        "teacher: needs one of recipe, checkpoint, pretrained, random, got pretrained and random",
        "schedule.warmup: must be in [0, 1], got 3.0",
    ):
        assert part in said, part
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ({}, "teacher: needs one of recipe, checkpoint, pretrained, random, got none"),
        ({"random": True}, "teacher.model: missing key"),
        ({"recipe": "missing.toml"}, "missing.toml: file not found"),
        ({"recipe": ""}, "must be a file, got a folder"),
        ({"recipe": 3}, "must be a recipe's file or table, got 3"),
        ({"recipe": {"data": {"name": "x:y"}}}, "teacher.recipe: student: missing key"),
    ],
)
def test_what_is_wrong_with_a_teacher(teacher: dict[str, Any], says: str):
    with pytest.raises(StillhouseError) as caught:
        Recipe.from_dict(tables(teacher=teacher))
    assert says in str(caught.value)


def test_values_out_of_range_are_said_together_and_beside_wrong_types():
    with pytest.raises(StillhouseError) as caught:
        Recipe.from_dict(tables(run__epochs=0, run__accumulate=-1, run__seed="abc", optimizer={"lr": 0.0, "name": 3}))
    assert sorted(map(str, caught.value.faults)) == [
        "optimizer.lr: must be > 0, got 0.0",
        "optimizer.name: must be text, got 3",
        "run.accumulate: must be > 0, got -1",
        "run.epochs: must be > 0, got 0",
        "run.seed: must be a whole number, got 'abc'",
    ]


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    write(tmp_path / "digits.toml", MINIMAL)
    with pytest.raises(StillhouseError, match=r"file not found \(did you mean 'digits.toml'\?\)"):
        Recipe.load(tmp_path / "digit.toml")


def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path):
    with pytest.raises(StillhouseError, match=r"is not valid TOML: .*line 1"):
        Recipe.load(write(tmp_path / "x.toml", "[run\n"))


def test_a_teachers_recipe_is_taken_in_whole_with_its_own_folder(tmp_path: Path):
    (tmp_path / "teachers").mkdir()
    write(tmp_path / "teachers" / "t.toml", MINIMAL)
    recipe = Recipe.load(write(tmp_path / "s.toml", MINIMAL + '[teacher]\nrecipe = "teachers/t.toml"\n'))
    assert recipe.teacher is not None
    assert recipe.teacher.recipe["run"]["base"] == str(tmp_path / "teachers")
    assert Recipe.load(write(tmp_path / "r.toml", recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optimizer.lr=3e-4", ("optimizer", "lr"), 3e-4),
        ("run.name=hello", ("run", "name"), "hello"),
        ('run.name="3"', ("run", "name"), "3"),
        ("data.transforms=[{use='RandomCrop', size=8}]", ("data", "transforms"), ({"use": "RandomCrop", "size": 8},)),
        ("data.per_class=5", ("data", "per_class"), 5),
    ],
)
def test_set_changes_a_key(tmp_path: Path, override: str, path: tuple[str, str], value: Any):
    recipe = Recipe.load(write(tmp_path / "x.toml", MINIMAL), overrides=[override])
    assert getattr(getattr(recipe, path[0]), path[1]) == value


@pytest.mark.parametrize("place", ["projector", "1"])
def test_set_reaches_into_the_plugin_list_by_name_and_by_number(tmp_path: Path, place: str):
    text = MINIMAL + '[[plugins]]\nuse = "logits"\n[[plugins]]\nuse = "projector"\n'
    recipe = Recipe.load(write(tmp_path / "x.toml", text), overrides=[f"plugins.{place}.kind=mlp"])
    assert recipe.plugins[1] == {"use": "projector", "kind": "mlp"}


def test_set_means_the_plugin_of_that_name_and_else_the_one_of_that_kind(tmp_path: Path):
    text = MINIMAL + "".join(
        f'[[plugins]]\nuse = "{use}"\n' + (f'name = "{name}"\n' if name else "")
        for use, name in (("projector", "shallow"), ("projector", ""), ("features", "a"), ("features", "b"))
    )
    file = write(tmp_path / "x.toml", text)
    assert [p.get("kind") for p in Recipe.load(file, overrides=["plugins.projector.kind=mlp"]).plugins] == [
        None,
        "mlp",
        None,
        None,
    ]
    assert [p.get("kind") for p in Recipe.load(file, overrides=["plugins.shallow.kind=mlp"]).plugins] == [
        "mlp",
        None,
        None,
        None,
    ]
    with pytest.raises(StillhouseError, match=r"2 items of the list are called 'features' .*by name or number: a, b"):
        Recipe.load(file, overrides=["plugins.features.weight=1"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.rl=1", "optimizer.rl: unknown key 'rl'"),
        ("nonsense", "must be KEY=VALUE, got 'nonsense'"),
        ("plugins.projectr.kind=mlp", "the list has no item 'projectr' (did you mean 'projector'?)"),
        (
            "projector.kind=mlp",
            "unknown key 'projector' (a plugin's options are in its [[plugins]]: --set plugins.projector.KEY",
        ),
        ("data.name.x=1", "must set a key of a table, got 'data.name.x=1'"),
    ],
)
def test_what_set_cannot_do_is_said(tmp_path: Path, override: str, says: str):
    text = MINIMAL + '[[plugins]]\nuse = "projector"\n'
    with pytest.raises(StillhouseError) as caught:
        Recipe.load(write(tmp_path / "x.toml", text), overrides=[override])
    assert says in str(caught.value)


def test_a_plugin_list_from_the_command_line_keeps_the_recipes_options():
    listed = [FEATURES, {"use": "projector", "name": "deep", "kind": "mlp", "links": "a/*"}]
    assert choose_plugins(listed, "features, deep=linear,logits") == [
        FEATURES,
        {"use": "projector", "name": "deep", "kind": "linear", "links": "a/*"},
        {"use": "logits"},
    ]
    assert choose_plugins(listed, "") == []
    assert choose_plugins(listed, "features=cosine")[0]["distance"] == "cosine"
    with pytest.raises(StillhouseError, match="--plugins: no installed plugin is called 'projektor'"):
        choose_plugins(listed, "projektor")


def test_set_reaches_a_plugin_that_only_the_command_lines_list_names(tmp_path: Path):
    loaded = load_recipe(
        write(tmp_path / "x.toml", MINIMAL), plugins="spectral=8", overrides=["plugins.spectral.layer=stage3"]
    )
    assert loaded.plugins == ({"use": "spectral", "rank": 8, "layer": "stage3"},)


def test_the_digest_follows_what_decides_the_result_and_nothing_else():
    base = Recipe.from_dict(tables()).digest()
    for same in (
        {"run__name": "other"},
        {"run__device": "auto"},
        {"run__log_every": 7},
        {"checkpoints": {"every_steps": 1}},
        {"data__workers": 3},
        {"data__prefetch": 5},
        {"data__cache": "none"},
        {"data__eval_batch_size": 7},
    ):
        assert Recipe.from_dict(tables(**same)).digest() == base, same
    for other in (
        {"run__seed": 4},
        {"run__threads": 3},
        {"run__test": False},
        {"optimizer": {"lr": 1e-3}},
        {"data__batch_size": 4},
        {"plugins": [{"use": "logits"}]},
    ):
        assert Recipe.from_dict(tables(**other)).digest() != base, other


@pytest.mark.parametrize("table", ["teacher", "student"])
def test_a_recipe_that_comes_before_itself_is_refused_by_name(tmp_path: Path, table: str):
    (tmp_path / "deep").mkdir()
    for name, other in (("a.toml", "deep/b.toml"), ("deep/b.toml", "../a.toml")):
        asks = f'[teacher]\nrecipe = "{other}"\n' if table == "teacher" else ""
        text = MINIMAL.replace("[student]", f'[student]\nrecipe = "{other}"') if table == "student" else MINIMAL
        write(tmp_path / name, text + "\n" + asks)
    for path, chain in (
        (tmp_path / "a.toml", "a.toml needs b.toml needs a.toml"),
        (tmp_path / "deep" / "b.toml", "b.toml needs a.toml needs b.toml"),
    ):
        with pytest.raises(StillhouseError) as caught:
            Recipe.load(path)
        (fault,) = caught.value.faults
        assert f"would have to be trained before itself: {chain}" in str(fault)
        assert f"{table}.recipe" in str(fault)
