"""A student is measured on classes in the order that it knows: another order is refused, other names are told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import recipe, tiny_data

from stillhouse import Recipe, StillhouseError, StillhouseWarning, evaluate, train


def named(names: list[str]) -> Any:
    """The tiny data; ``names`` are those of its classes."""
    return tiny_data()


def data_of(*names: str) -> dict[str, Any]:
    args = {"names": list(names), "target": "class", "classes": list(names)}
    return {"name": f"{__name__}:named", "args": args, "batch_size": 8, "normalize": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "run"
    train(recipe(teacher=None, run__epochs=1, data=data_of("cat", "dog", "eel")), out=folder)
    return folder


def measured(run: Path, folder: Path, *names: str) -> Any:
    other = Recipe.load(run / "recipe.toml").to_dict() | {"data": data_of(*names)}
    path = folder / "other.toml"
    path.write_text(Recipe.from_dict(other).to_toml(), encoding="utf-8")
    return evaluate(run, data=str(path))


def test_another_order_of_the_same_classes_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(
        StillhouseError,
        match=r"data: classes must be in the training's order, 'cat', 'dog', 'eel', got 'dog', 'cat', 'eel'",
    ):
        measured(run, tmp_path, "dog", "cat", "eel")


def test_other_names_are_told_of(run: Path, tmp_path: Path):
    with pytest.warns(
        StillhouseWarning, match="classes have other names than in training: 2 is 'fox' here and was 'eel'"
    ):
        measured(run, tmp_path, "cat", "dog", "fox")
    measured(run, tmp_path, "cat", "dog", "eel")
