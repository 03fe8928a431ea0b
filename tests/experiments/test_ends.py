"""A grid whose best value lies at its end says so, and where to look next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse.experiments import ablate
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.ends import find_mode, note_ends
from stillhouse.experiments.stopped_arm import StoppedArm
from stillhouse.tasks import Classification


def grid_of(values: dict[str, float], kinds: tuple[str, ...] = ()) -> tuple[Any, list[Arm]]:
    """A comparison of arms with the weights and means of ``values``, and these arms."""
    arms = [Arm("none", "none", recipe())]
    for place, text in enumerate(values):
        kind: Any = kinds[place] if kinds else "grid"
        arms.append(Arm(f"a.weight={text}", kind, recipe(), settings={"plugins.a.weight": text}))
    groups = [Group("none", {0: 0.1})]
    groups += [Group(arm.name, {0: mean}) for arm, mean in zip(arms[1:], values.values(), strict=True)]
    return compare_groups("val/accuracy", groups), arms


@pytest.mark.parametrize(
    ("values", "mode", "told"),
    [
        ({"0.1": 0.5, "1": 0.6, "10": 0.7}, "max", "a.weight = 100 beyond 10"),
        ({"0.1": 0.5, "1": 0.6, "10": 0.7}, "min", "a.weight = 0.01 beyond 0.1"),
        ({"0.1": 0.5, "1": 0.8, "10": 0.7}, "max", ""),
        ({"0.1": 0.5, "1": 0.6, "10": 0.7}, None, ""),
        ({"'linear'": 0.5, "'mlp'": 0.6}, "max", ""),
    ],
)
def test_the_best_cell_says_where_to_look_next(values: dict[str, float], mode: Any, told: str):
    comparison, arms = grid_of(values)
    notes = [row.group.note for row in note_ends(comparison, arms, mode).rows if row.group.note]
    assert notes == ([f"the best of its grid, at an end of what was tried: try {told}"] if told else [])


def test_the_full_list_is_a_cell_where_it_has_the_grids_value():
    comparison, arms = grid_of({"1": 0.7, "0.1": 0.6, "10": 0.5}, ("full", "grid", "grid"))
    assert not any(row.group.note for row in note_ends(comparison, arms, "max").rows)


def test_which_way_is_better_is_known_of_the_score_and_of_losses():
    assert [find_mode(f"val/{name}", Classification()) for name in ("accuracy", "loss", "top5")] == ["max", "min", None]


def test_an_ablation_with_a_grid_has_it_in_its_table(tmp_path: Path):
    grid = ["features.weight=0.001,1000"]
    changes = {"run__epochs": 1, "teacher__args": {"width": 4}}
    ablate(recipe(FEATURES, {"use": "projector"}, **changes), seeds=1, grid=grid, out=tmp_path / "a", metric="val/loss")
    assert "at an end of what was tried: try features.weight = " in (tmp_path / "a" / "table.md").read_text()


def test_a_stopped_cell_was_tried_as_well():
    comparison, arms = grid_of({"0.1": 0.5, "1": 0.6})
    why = StoppedArm("a.weight=10", 2, 16, "val/accuracy", 0.1, "none", 0.2, (20_000,))
    stopped = compare_groups("val/accuracy", [*(row.group for row in comparison.rows), Group(why.arm, {}, stopped=why)])
    cell = Arm(why.arm, "grid", recipe(), settings={"plugins.a.weight": "10"})
    assert "a.weight = 10 beyond 1" in "".join(row.group.note for row in note_ends(comparison, arms, "max").rows)
    assert not any(row.group.note for row in note_ends(stopped, [*arms, cell], "max").rows)
