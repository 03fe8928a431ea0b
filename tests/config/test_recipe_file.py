"""Recipes in YAML and JSON, files that include others, variables of the environment."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from stillhouse import Recipe, StillhouseError
from stillhouse.config.recipe_file import _parse_yaml, read_tables
from stillhouse.config.trust import reading_stored

TABLES: dict[str, Any] = {
    "run": {"name": "a", "epochs": 3},
    "data": {"name": "sklearn:digits"},
    "student": {"model": "mlp", "args": {"width": 16}},
    "optimizer": {"lr": 2e-3},
    "plugins": [{"use": "spectral", "layers": ["net.1"]}],
}

YAML = """\
run: &run {name: a, epochs: 3}
data:
  name: sklearn:digits
student:
  model: mlp
  args:
    width: 16
optimizer:
  lr: 2e-3
  args: null
plugins:
  - use: spectral
    layers: [net.1]
"""


def save(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder / next(iter(files)).replace("__", ".")


def message_of(path: Path) -> str:
    with pytest.raises(StillhouseError) as caught:
        Recipe.load(path)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])]).replace(str(path.parent), "")


def test_one_recipe_in_three_formats(tmp_path: Path):
    expected = Recipe.from_dict(TABLES, base=tmp_path)
    for name, text in (
        ("r.toml", expected.to_toml()),
        ("r.json", json.dumps(TABLES)),
        ("r.yaml", YAML),
        ("r.YML", YAML),
    ):
        (tmp_path / name).write_text(text)
        assert Recipe.load(tmp_path / name) == expected


def test_yaml_has_the_scalars_of_toml_and_json(tmp_path: Path):
    rng = random.Random(0)
    numbers = [10.0 ** rng.randint(-8, 8) * rng.choice([1, -1, 0.5, 3]) for _ in range(200)]
    texts = ["no", "on", "yes", "off", "2020-01-01", "1_000", "12:30", "0x", "1e", "nan", "0b1", "1,5", "+", "="]
    written = {"numbers": numbers, "exact": [2e-3, 1e10, 0, 7, -3, 1.0], "flags": [True, False]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in written.items()]
    lines += [
        "short: [2e-3, 1E10, .5, 1., -1e+2, 0x1F, 0o17, -7, 007]",
        f"texts: [{', '.join(f'{t!s}' for t in texts if ',' not in t)}]",
    ]
    found = read_tables(save(tmp_path, r__yaml="\n".join(lines)))
    assert {key: found[key] for key in written} == written
    assert found["short"] == [2e-3, 1e10, 0.5, 1.0, -100.0, 31, 15, -7, 7]
    assert found["texts"] == [t for t in texts if "," not in t]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.yaml", "a: [1", "/r.yaml: is not valid YAML: while parsing a flow sequence"),
        (
            "r.yaml",
            "!!python/object/apply:os.system [ls]",
            "/r.yaml: is not valid YAML: could not determine a constructor",
        ),
        ("r.yaml", "- a", "/r.yaml: must be a table, got list"),
        ("r.yaml", "", "/r.yaml: must be a table, got NoneType"),
        ("r.yaml", "1: 2", "/r.yaml: a key must be text, got 1"),
        ("r.yaml", "a: !!timestamp 2020-01-01", "/r.yaml: a: must be text, a number"),
        ("r.yaml", "a: [~]", "/r.yaml: a: a list must not hold None"),
        ("r.yaml", "[" * 5000, "/r.yaml: is nested too deeply"),
        ("r.json", "[" * 100000, "/r.json: is nested too deeply"),
        ("r.json", "{,}", "/r.json: is not valid JSON: Expecting property name"),
        ("r.json", "[]", "/r.json: must be a table, got list"),
        ("r.json", '{"run": {"epochs": "3"}}', "/r.json: run.epochs: must be a whole number, got '3'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(name: str, text: str, said: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    assert said in message_of(tmp_path / name)


def test_a_few_lines_that_name_each_other_without_end_are_no_recipe(tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "is no recipe: it has more than 100,000 values" in message_of(save(tmp_path, r__yaml="\n".join(lines)))


def test_a_file_changes_what_it_includes_key_by_key_and_lists_whole(tmp_path: Path):
    (tmp_path / "more").mkdir()
    (tmp_path / "base.yaml").write_text(YAML)
    (tmp_path / "more" / "small.toml").write_text(
        'include = "../base.yaml"\n[student.args]\nwidth = 4\n[run]\nseed = 3\n'
    )
    file = save(
        tmp_path,
        r__toml='include = ["base.yaml", "more/small.toml"]\nplugins = []\n[run]\nepochs = 9\n[optimizer]\nname = "sgd"\n',
    )
    assert read_tables(file) == {
        "run": {"name": "a", "epochs": 9, "seed": 3},
        "data": {"name": "sklearn:digits"},
        "student": {"model": "mlp", "args": {"width": 4}},
        "optimizer": {"lr": 2e-3, "name": "sgd"},
        "plugins": [],
    }
    assert Recipe.load(file, overrides=["run.seed=5"]).run.seed == 5
    assert "include" not in Recipe.load(file).to_toml()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"r.toml": "include = 3"}, "/r.toml: include: must be a list of files, got 3"),
        ({"r.toml": "include = [[]]"}, "/r.toml: include: must be a list of files, got [[]]"),
        (
            {"r.toml": 'include = ["bse.toml"]', "base.toml": ""},
            "/bse.toml: file not found (did you mean 'base.toml' or 'r.toml'?)\nincluded by /r.toml",
        ),
        (
            {"r.toml": 'include = ["r.toml"]'},
            "/r.toml: include: files include each other without end: r.toml includes r.toml",
        ),
        (
            {"r.toml": 'include = ["a.toml"]', "a.toml": 'include = ["r.toml"]'},
            "/a.toml: include: files include each other without end: r.toml includes a.toml includes r.toml",
        ),
        ({"r.toml": 'include = ["a.toml"]', "a.toml": "x = "}, "/a.toml: is not valid TOML"),
        ({"r.toml": 'include = ["."]'}, "must be a file, got a folder"),
        (
            {"r.toml": 'include = ["a.toml"]', "a.toml": "", "lock.json": "{}"},
            "/r.toml: include: a run's own recipe is whole",
        ),
    ],
)
def test_what_cannot_be_included_is_said(files: dict[str, str], said: str, tmp_path: Path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert said in message_of(tmp_path / "r.toml")


def test_variables_of_the_environment_are_read_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SET", "sklearn:digits")
    monkeypatch.setenv("EMPTY", "")
    tables = {**TABLES, "data": {"name": "${env:SET}"}, "run": {"name": "a${env:EMPTY}-${env:UNSET:-b}-$HOME"}}
    recipe = Recipe.from_dict(tables)
    assert (recipe.data.name, recipe.run.name) == ("sklearn:digits", "a-b-$HOME")
    assert "env:" not in recipe.to_toml()
    with pytest.raises(StillhouseError, match="the environment has no variable 'UNSET'"):
        Recipe.from_dict({**TABLES, "run": {"name": "${env:UNSET}"}})
    monkeypatch.setenv("NESTED", "${env:SET}")
    with pytest.raises(StillhouseError, match="must not name another one"):
        Recipe.from_dict({**TABLES, "run": {"name": "${env:NESTED}"}})
    with reading_stored("/elsewhere"), pytest.raises(StillhouseError, match="does not read the environment"):
        Recipe.from_dict(tables)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.yaml", "run:\n  epochs: 3\n  epochs: 4\n"),
        ("x.yaml", "run: {epochs: 3}\nrun: {epochs: 4}\n"),
        ("x.json", '{"run": {"epochs": 3, "epochs": 4}}'),
    ],
)
def test_a_key_that_stands_twice_is_refused_as_in_toml(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(StillhouseError, match=r"the key '(run|epochs)' stands there twice"):
        Recipe.load(tmp_path / name)


def test_yaml_takes_anchors_and_merges_with_keys_of_ones_own(tmp_path: Path):
    text = "base: &base {name: 'sklearn:digits', size: 8}\nother: {<<: *base, size: 12}\n"
    assert _parse_yaml(text, "x")["other"] == {"name": "sklearn:digits", "size": 12}
