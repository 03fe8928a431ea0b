"""Options are finite, wherever a recipe has them and however it is made."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support import FEATURES, recipe, tables

from stillhouse import Recipe, Schedule, StillhouseError
from stillhouse.config.data import DataSpec
from stillhouse.config.model import ModelSpec
from stillhouse.config.run import OptimizerSpec, RunSpec
from stillhouse.config.run_options import EarlyStoppingSpec, EmaSpec
from stillhouse.config.task import TaskSpec

NUMBERS = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("optimizer", "lr"),
        ("optimizer", "weight_decay"),
        ("optimizer", "clip_norm"),
        ("optimizer", "args.eps"),
        ("schedule", "peak"),
        ("schedule", "final"),
        ("schedule", "until"),
        ("schedule", "warmup_epochs"),
        ("data", "val_fraction"),
        ("data", "args.share"),
        ("student", "args.dropout"),
        ("teacher", "args.dropout"),
        ("task", "args.label_smoothing"),
        ("ema", "decay"),
        ("early_stopping", "min_delta"),
    ],
)
def test_a_key_that_is_not_finite_is_named(table: str, key: str, value: float):
    made = tables()
    inner: dict[str, Any] = made.setdefault(table, {})
    *parents, last = key.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    with pytest.raises(StillhouseError) as caught:
        Recipe.from_dict(made)
    (fault,) = caught.value.faults
    assert str(fault) == f"{table}.{key}: must be finite, got {value}"


def test_every_such_key_of_a_recipe_is_named_at_once_and_those_of_a_recipe_in_it():
    own = tables(optimizer={"lr": math.inf})
    made = tables(
        optimizer={"lr": math.nan, "weight_decay": math.inf},
        teacher={"recipe": own},
        plugins=[{**FEATURES, "weight": math.inf}],
    )
    with pytest.raises(StillhouseError) as caught:
        Recipe.from_dict(made)
    assert {fault.where for fault in caught.value.faults} >= {
        "optimizer.lr",
        "optimizer.weight_decay",
        "teacher.recipe: optimizer.lr",
        "plugins[0].weight",
    }


@pytest.mark.parametrize("value", NUMBERS)
def test_python_is_told_the_same(value: float):
    for make in (
        lambda: OptimizerSpec(lr=value),
        lambda: OptimizerSpec(weight_decay=value),
        lambda: EmaSpec(decay=value),
        lambda: EarlyStoppingSpec(min_delta=value),
        lambda: DataSpec(name="x", args={"a": [1.0, value]}),
        lambda: ModelSpec(model="x:y", args={"a": value}),
        lambda: TaskSpec(args={"a": value}),
        lambda: Schedule(peak=value),
        lambda: Schedule(final=value),
    ):
        with pytest.raises(StillhouseError, match=f"must be finite, got {value}"):
            make()


def test_python_is_told_of_wrong_types_as_a_file_is():
    with pytest.raises(StillhouseError, match="epochs: must be a whole number, got '3'"):
        RunSpec(epochs="3")  # type: ignore[arg-type]  # on purpose


def test_a_plugin_has_finite_options():
    with pytest.raises(StillhouseError, match=r"plugins\[0\]\.weight: must be finite, got inf"):
        recipe({**FEATURES, "weight": math.inf})
    with pytest.raises(StillhouseError, match=r"plugins\[0\]\.weight\.peak: must be finite, got nan"):
        recipe({**FEATURES, "weight": {"peak": math.nan}})
