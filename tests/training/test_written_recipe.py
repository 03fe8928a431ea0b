"""What a run writes of itself can be read again, or is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import recipe

from stillhouse import Plugin, Recipe, StillhouseError, plugin, train


@plugin
class Holding(Plugin):
    """Has an option of any kind."""

    held: Any = None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            np.int64(3),
            f"plugins[0].held: must be text, a number, true or false, a list or a table, got {np.int64(3)!r}",
        ),
        (Path("/x"), "plugins[0].held: must be text, a number, true or false, a list or a table, got PosixPath('/x')"),
        (torch.zeros(1), "plugins[0].held: must be text, a number, true or false, a list or a table, got tensor([0.])"),
        (len, "plugins[0].held: must be text, a number, true or false, a list or a table, got <built-in function len>"),
        ({"a": [1, None]}, "plugins[0].held.a: a list must not hold None, which TOML has not, got [1, None]"),
        ({1: 2}, "plugins[0].held: a key must be text, got 1"),
        ("a\0b", "plugins[0].held: must not have a control character, got 'a\\x00b'"),
        (10**30, "plugins[0].held: must be a whole number of at most 64 bits, got one of 100"),
    ],
    ids=["numpy", "path", "tensor", "function", "gap", "key", "control", "digits"],
)
def test_options_from_python_that_could_not_be_read_again_are_refused_before_training(
    value: Any, says: str, tmp_path: Path
):
    with pytest.raises(StillhouseError) as caught:
        train(recipe(), plugins=[Holding(held=value)], out=tmp_path / "run")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    train(recipe(run__epochs=1), plugins=[Holding(held=value)], write=False)  # which writes none


@pytest.mark.parametrize("value", [None, np.float64(1.5), (1, 2), {"a": {"": [{}]}}, 'a"b\n\\u"""', [[1, [2]], "é"]])
def test_others_are_written_and_the_run_goes_on_with_them(value: Any, tmp_path: Path):
    made = recipe(run__epochs=1)
    train(made, plugins=[Holding(held=value)], out=tmp_path / "run")
    json.loads((tmp_path / "run" / "lock.json").read_text())
    Recipe.load(tmp_path / "run" / "recipe.toml")
    again = train(made, plugins=[Holding(held=value)], out=tmp_path / "run", resume=True)
    assert again.summary["steps_done"] == 3
