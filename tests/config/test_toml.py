"""Recipes' files as editors write them; tables that no recipe can be made of."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from stillhouse import Recipe, StillhouseError
from stillhouse.config.overrides import parse_value
from stillhouse.config.recipe_file import read_tables
from stillhouse.config.toml import check_tables

TEXT = '[data]\nname = "sklearn:digits"\n[student]\nmodel = "mlp"\n'


def message_of(content: bytes | str, folder: Path) -> str:
    file = folder / "r.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StillhouseError) as caught:
        Recipe.load(file)
    return str(caught.value).replace(str(folder), "")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_mark_at_the_start_and_lines_of_windows_are_read(start: bytes, tmp_path: Path):
    (tmp_path / "r.toml").write_bytes(start + TEXT.replace("\n", "\r\n").encode())
    assert Recipe.load(tmp_path / "r.toml").student.model == "mlp"


def test_other_files_are_told(tmp_path: Path):
    for content, said in (
        (TEXT.encode("utf-16"), "/r.toml: is text in UTF-16 (save it as UTF-8)"),
        (b'x = "\xff"', "/r.toml: is not text in UTF-8: byte 5 is 0xff (save it as UTF-8)"),
        (b"x = \0", "/r.toml: is not valid TOML: Invalid value (at line 1, column 5)"),
        ("x = " + "[" * 3000 + "]" * 3000, "/r.toml: is nested too deeply (at most 64 levels)"),
        ("[" + ".".join(["a"] * 200) + "]", "is nested too deeply (at most 64 levels)"),
        (f"x = {'9' * 5000}", "/r.toml: is not valid TOML: a number has too many digits"),
        (TEXT + "[run]\nseed = 99999999999999999999", "/r.toml: run.seed: must be a whole number of at most 64 bits"),
        (
            TEXT + "[run]\nepochs = 1979-05-27",
            "/r.toml: run.epochs: must be text, a number, true or false, a list or a table",
        ),
        (b"x" * (16 * 2**20 + 1), "/r.toml: is no recipe: it has more than 16 MiB"),
    ):
        assert said in message_of(content, tmp_path)


@pytest.mark.parametrize("path", ["C:\\Users\\me\\flowers", "D:\\data"])
def test_a_path_of_windows_between_double_quotes(path: str, tmp_path: Path):
    said = message_of(TEXT.replace("sklearn:digits", f"folder:{path}"), tmp_path)
    assert "is not valid TOML" in said
    assert "(between double quotes a backslash begins an escape: write C:/folder, or 'C:\\folder'" in said
    (tmp_path / "r.toml").write_text(TEXT.replace('"sklearn:digits"', f"'folder:{path}'"))
    assert Recipe.load(tmp_path / "r.toml").data.name == f"folder:{path}"


@pytest.mark.parametrize("name", ["", "nowhere", "\0", "a" * 5000, "/dev/zero", "/dev/null", "/proc/self/mem"])
def test_names_that_are_no_recipes_file(name: str):
    with pytest.raises(StillhouseError):
        Recipe.load(name)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (5, "must be a table, got int"),
        ({"x": nested(100_000)}, "is nested too deeply"),
        ({"x": {1: 2}}, "x: a key must be text, got 1"),
        ({"a\x1bb": 1}, r"a key must not have a control character, got 'a\x1bb'"),
        ({"x": ["a\0"]}, r"x[0]: must not have a control character, got 'a\x00'"),
        ({"x": "\udcff"}, r"x: must be text in UTF-8, got '\udcff'"),
        ({"x": -(2**63) - 1}, "x: must be a whole number of at most 64 bits, got one of 64"),
        ({"x": 10**5000}, "x: must be a whole number of at most 64 bits, got one of 16610"),
        ({"x": {1.5}}, "x: must be text, a number, true or false, a list or a table, got {1.5}"),
    ],
)
def test_tables_that_no_recipe_is_made_of(tables: Any, said: str):
    with pytest.raises(StillhouseError) as caught:
        check_tables(tables)
    assert said in str(caught.value)
    with pytest.raises(StillhouseError):
        Recipe.from_dict(tables)


@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size", "workers", "prefetch", "size", "crop"])
def test_numbers_that_no_machine_has_room_for(key: str):
    tables = {"data": {"name": "sklearn:digits", key: 10**9}, "student": {"model": "mlp"}}
    with pytest.raises(StillhouseError, match=rf"data\.{key}: must be at most [\d,]+, got 1000000000"):
        Recipe.from_dict(tables)


def test_plain_tables_pass():
    check_tables(
        {"a": [1, -(2**63), 2**63 - 1, 1.5, float("nan"), True, "é\n\t", {"b": ()}], "c": None, "": nested(60)}
    )


PLAIN: dict[str, Any] = {"data": {"name": "sklearn:digits"}, "student": {"model": "mlp"}, "run": {}, "teacher": {}}


@pytest.mark.parametrize(
    "table", ["run", "data", "student", "student.args", "task", "task.args", "optimizer", "plugins"]
)
@pytest.mark.parametrize("value", ["text", 5, [1], True])
def test_a_table_given_as_something_else(table: str, value: Any):
    tables = copy.deepcopy({**PLAIN, "teacher": {"model": "mlp", "random": True}})
    outer, _, inner = table.partition(".")
    if inner:
        tables.setdefault(outer, {})[inner] = value
    else:
        tables[outer] = value
    with pytest.raises(StillhouseError) as caught:
        Recipe.from_dict(tables)
    place = {"plugins": "plugins"}.get(table, table)
    assert f"{place}: must be a " in str(caught.value) or f"{place}[0]: must be a table" in str(caught.value)
    assert "attribute" not in str(caught.value)


def test_values_on_the_command_line_are_toml_or_text():
    assert parse_value("[1, 2]") == [1, 2]
    for text in ("[[[", "9" * 5000, "[" * 5000, "'''", "a\0"):
        assert parse_value(text) == text


def test_recipes_that_need_each_other(tmp_path: Path):
    for number in range(20):
        asks = f'[teacher]\nrecipe = "r{number + 1}.toml"\n' if number < 19 else ""
        (tmp_path / f"r{number}.toml").write_text(TEXT + asks)
    assert Recipe.load(tmp_path / "r10.toml").teacher is not None
    with pytest.raises(StillhouseError, match="is asked for by more than 16 recipes, one after the other"):
        Recipe.load(tmp_path / "r0.toml")
    (tmp_path / "r19.toml").write_text(TEXT + '[teacher]\nrecipe = "./r18.toml"\n')
    with pytest.raises(
        StillhouseError, match=r"would have to be trained before itself: r18.toml needs r19.toml needs r18"
    ):
        Recipe.load(tmp_path / "r18.toml")
    for number in range(2):  # links in a circle
        (tmp_path / f"l{number}.toml").symlink_to(f"l{1 - number}.toml")
    (tmp_path / "r.toml").write_text(TEXT + '[teacher]\nrecipe = "l0.toml"\n')
    with pytest.raises(StillhouseError, match="cannot be read"):
        Recipe.load(tmp_path / "r.toml")


def test_a_recipe_that_comes_through_a_pipe_is_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    if os.fork() == 0:
        (tmp_path / "pipe").write_text(TEXT)
        os._exit(0)
    assert read_tables(tmp_path / "pipe")["student"] == {"model": "mlp"}
