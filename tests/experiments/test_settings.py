"""Settings that decide a result: what does not is left out at any depth of the recipes that a recipe names."""

from __future__ import annotations

from typing import Any

import pytest
from support import recipe

from stillhouse import Recipe
from stillhouse.experiments.settings import find_differing, flatten_settings

MODEL = {"model": "support:TinyNet", "args": {"width": 4}}


def nested(name: str, **changes: Any) -> dict[str, Any]:
    return {"recipe": recipe(run__name=name, teacher=None, student=MODEL, **changes).to_dict()}


def place(where: str, model: dict[str, Any]) -> Recipe:
    if where == "further teacher":
        return recipe(student=MODEL, teachers={"assistant": model})
    if where == "teacher of the teacher":
        between = recipe(student=MODEL, teacher=model, run__name="between").to_dict()
        return recipe(student=MODEL, teacher={"recipe": between})
    return recipe(**{"student": MODEL, where: {**MODEL, **model} if where == "student" else model})


@pytest.mark.parametrize("where", ["teacher", "student", "further teacher", "teacher of the teacher"])
def test_names_and_logging_of_nested_recipes_make_no_difference_and_their_epochs_do(where: str):
    one = flatten_settings(place(where, nested("one", run__log_every=7)))
    same = flatten_settings(place(where, nested("two", checkpoints={"keep_every": 3})))
    other = flatten_settings(place(where, nested("one", run__epochs=9)))
    assert find_differing([one, same]) == []
    (key,) = find_differing([one, other])
    assert key.endswith("run.epochs")
