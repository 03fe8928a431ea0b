"""An ablation's arms: which there are and why, grids and their cells, and that seeds are paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, FIVE, recipe, same_state

from stillhouse import Recipe, StillhouseError, StillhouseWarning, prepare
from stillhouse.cli import main
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.arms import hash_arm, make_arms, name_arms, resolve
from stillhouse.experiments.grid import make_cells, parse_grid


def arms_of(whole: Recipe, **options: Any) -> dict[str, Any]:
    made = make_arms(resolve(whole), **{"leave_one_out": True, "one_at_a_time": True, **options})
    return {arm.name: arm for arm in made}


def test_each_plugin_is_left_out_with_those_that_require_it_and_run_with_those_it_requires():
    arms = arms_of(recipe(*FIVE.values()))
    lists = {name: list(arm.plugins) for name, arm in arms.items()}
    assert lists == {
        "none": [],
        "full": ["features", "normalizer", "projector", "spectral", "logits"],
        "only-features": ["features"],
        "only-normalizer": ["features", "normalizer"],
        "only-projector": ["features", "projector"],
        "only-spectral": ["spectral"],
        "only-logits": ["logits"],
        "without-features": ["spectral", "logits"],
        "without-normalizer": ["features", "projector", "spectral", "logits"],
        "without-projector": ["features", "normalizer", "spectral", "logits"],
        "without-spectral": ["features", "normalizer", "projector", "logits"],
        "without-logits": ["features", "normalizer", "projector", "spectral"],
    }
    assert arms["without-features"].reason == (
        "without normalizer, projector too: normalizer requires links; projector requires links"
    )
    assert arms["only-projector"].reason == "with features: projector requires links"
    assert arms["without-logits"].reason == ""


def test_what_the_batch_has_is_asked_of_no_plugin():
    arms = arms_of(recipe(FIVE["logits"], {"use": "dkd"}))
    assert {name: list(arm.plugins) for name, arm in arms.items()} == {
        "none": [],
        "full": ["logits", "dkd"],
        "only-dkd": ["dkd"],
        "only-logits": ["logits"],
    }
    assert arms["only-dkd"].also == ("without-logits",)


def test_arms_that_are_the_same_run_are_one():
    arms = arms_of(recipe(FEATURES, {"use": "projector"}))
    assert list(arms) == ["none", "full", "only-features"]
    assert arms["none"].also == ("without-features (without projector too: projector requires links)",)
    assert arms["full"].also == ("only-projector (with features: projector requires links)",)
    assert arms["only-features"].also == ("without-projector",)
    assert [arm.name for arm in make_arms(resolve(recipe()), leave_one_out=True, one_at_a_time=True)] == ["none"]


def test_what_a_plugin_needs_without_saying_so_shows_when_the_arm_is_built(tmp_path: Path):
    """Features of two widths have no distance without a projector."""
    whole = recipe(FEATURES, {"use": "projector"}, {"use": "logits"}, run__epochs=1)
    plan, _ = make_plan(whole, seeds=1, out=tmp_path / "runs")
    arms = {arm.name: arm for arm in plan.arms}
    assert list(arms) == ["none", "full", "only-features", "only-logits"]
    assert arms["only-features"].plugins == ("features", "projector")
    assert arms["only-features"].reason.startswith(
        "with projector: features: student and teacher features must have one shape"
    )
    assert "without-logits" in arms["only-features"].also
    assert any(
        name.startswith("without-projector (without features too: features: ") for name in arms["only-logits"].also
    )
    assert not (tmp_path / "runs").exists()
    assert [run.index for run in plan.runs()] == [0, 1, 2, 4], "of none, full, three alone and three left out"


def test_the_names_that_number_runs_are_the_arms(tmp_path: Path):
    whole = recipe(*FIVE.values())
    axes = parse_grid(["logits.weight=1,2", "data.limit=8,16"], whole)
    asked: dict[str, Any] = {"leave_one_out": True, "one_at_a_time": True, "axes": axes}
    names, arms = name_arms(whole, **asked), make_arms(resolve(whole), **asked)
    assert names == name_arms(resolve(whole), **asked)
    assert sorted(name for arm in arms for name in (arm.name, *arm.merged)) == sorted(names)
    assert [arm.name for arm in arms] == [name for name in names if name in {arm.name for arm in arms}]


def test_an_arm_that_cannot_be_built_is_left_out_with_a_warning():
    def check(tried: Recipe) -> None:
        if len(tried.plugins) == 1:
            raise StillhouseError("is not enough", where="student")

    with pytest.warns(StillhouseWarning, match="the arm 'without .*' cannot be built and is left out") as told:
        arms = arms_of(recipe(FIVE["spectral"], FIVE["logits"]), check=check, one_at_a_time=False)
    assert list(arms) == ["none", "full"]
    assert len(told) == 2


def test_pairs_share_subset_order_and_the_students_start(tmp_path: Path):
    whole = recipe(*FIVE.values(), data__per_class=4)
    plan, _ = make_plan(whole, seeds=2, out=tmp_path)
    seen: dict[int, list[Any]] = {}
    for run in plan.runs():
        if run.arm in ("none", "full", "without-features", "only-spectral"):
            training = prepare(run.recipe, write=False)
            stream = training.data.training()
            ids = torch.cat([next(stream).id for _ in range(6)])
            start = {k: v.clone() for k, v in training.run.student.state_dict().items()}
            training.close()
            seen.setdefault(run.seed, []).append((ids, start))
    assert list(seen) == [3, 4]
    for members in seen.values():
        assert len(members) == 4
        for ids, start in members[1:]:
            assert torch.equal(ids, members[0][0])
            assert same_state(start, members[0][1])
    assert not torch.equal(seen[3][0][0], seen[4][0][0])
    assert not same_state(seen[3][0][1], seen[4][0][1])


def test_grids_are_the_full_product():
    whole = recipe(*FIVE.values())
    axes = parse_grid(
        ["projector.kind=linear,orthogonal", "plugins.spectral.rank=1,2", "data.size=[8,8],[6, 6]"], whole
    )
    assert [axis.key for axis in axes] == ["plugins.projector.kind", "plugins.spectral.rank", "data.size"]
    assert axes[2].values == ("[8,8]", "[6, 6]")
    assert len(make_cells(axes)) == 8
    assert make_cells(axes)[1] == {
        "plugins.projector.kind": "linear",
        "plugins.spectral.rank": "1",
        "data.size": "[6, 6]",
    }


def test_cells_vary_the_full_list_and_other_settings_have_their_own_baselines():
    whole = recipe(*FIVE.values())
    axes = parse_grid(["spectral.rank=1,2", "data.per_class=2,4"], whole)
    arms = arms_of(whole, leave_one_out=False, one_at_a_time=False, axes=axes)
    assert list(arms) == [
        "data.per_class=2,none",
        "data.per_class=2,full",
        "data.per_class=2,spectral.rank=1",
        "data.per_class=4,none",
        "data.per_class=4,full",
        "data.per_class=4,spectral.rank=1",
    ]
    assert arms["data.per_class=4,full"].also == ("spectral.rank=2",)
    cell = arms["data.per_class=4,spectral.rank=1"]
    assert cell.recipe.data.per_class == 4
    assert next(p for p in cell.recipe.plugins if p["use"] == "spectral")["rank"] == 1
    assert cell.group == "data.per_class=4"


def test_bad_grids_are_named_all_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = save(tmp_path, *FIVE.values())
    grid = ["--grid", "projector.kind", "run.seed=1,2", "projektor.kind=linear", "optimizer.lr=1e-3,"]
    assert main(["ablate", path, "--seeds", "2", "--out", str(tmp_path / "a"), *grid]) == 2
    text = capsys.readouterr().err
    assert "must be KEY=VALUE,VALUE,..., got 'projector.kind'" in text
    assert "--grid run.seed: must not be the seed, by which runs are paired" in text
    assert "unknown table or plugin 'projektor' (did you mean 'projector'?)" in text
    assert "must be KEY=VALUE,VALUE,..., got 'optimizer.lr=1e-3,'" in text
    grid = ["--grid", "projector.kind=linear,straight", "optimizer.lr=1e-3,-1"]
    assert main(["ablate", path, "--seeds", "2", "--out", str(tmp_path / "a"), *grid]) == 2
    text = capsys.readouterr().err
    assert "error: --grid projector.kind=straight: plugins[2].kind (projector): must be one of" in text
    assert "error: --grid optimizer.lr=-1: optimizer.lr: must be > 0, got -1.0" in text
    assert text.count("error: ") == 2
    assert not (tmp_path / "a").exists()


def save(tmp_path: Path, *plugins: Any, **changes: Any) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*plugins, **changes).to_toml())
    return str(path)


def test_identity_is_all_but_the_seed():
    assert hash_arm(recipe(run__seed=1)) == hash_arm(recipe(run__seed=2))
    assert hash_arm(recipe(run__epochs=1)) != hash_arm(recipe(run__epochs=2))
