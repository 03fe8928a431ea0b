"""Models that an option of a plugin names: a recipe's, trained once before the run, or one of the plugin's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, TinyNet, interrupted, recipe, same_state, tables

from stillhouse import Plugin, Recipe, StillhouseError, TeacherSpec, Weight, hookimpl, load_student, plugin, train
from stillhouse import prepare as prepare_run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepare(*arguments: Any, **options: Any) -> Any:
    return prepare_run(*arguments, write=False, **options)


def trained(width: int, **changes: Any) -> dict[str, Any]:
    """The recipe of one that teaches, as a table."""
    student = {"model": "support:TinyNet", "args": {"width": width}}
    return recipe(run__name=f"net-{width}", run__epochs=1, teacher=None, student=student, **changes).to_dict()


@plugin
class Peer(Plugin):
    """Pulls the student towards a frozen model that an option names."""

    peer: TeacherSpec
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        return assembly.load(self, "peer").requires_grad_(False).eval()

    @hookimpl
    def losses(self, step):
        with torch.no_grad():
            target = step.forward(step.module(self), step.inputs).output
        return {"": (step.student.output - target).square().mean()}


def peers(**peer: Any) -> dict[str, Any]:
    return {"use": f"{__name__}:Peer", "peer": peer}


def test_an_option_that_is_a_recipe_is_trained_once_before_the_run(own_cache: Path, tmp_path: Path):
    made = recipe(peers(recipe=trained(5)), teacher=None)
    training = prepare_run(made, out=tmp_path / "run")
    (folder,) = [p for p in (own_cache / "teachers").iterdir() if p.is_dir()]
    assert folder.name.startswith("net-5-")
    alone = train(Recipe.from_dict(trained(5)), write=False)
    assert same_state(alone.student.state_dict(), training.run.module(training.actives[0].plugin).state_dict())
    stamp = (folder / "summary.json").stat().st_mtime_ns
    result = training.fit()
    train(made, write=False)
    as_teacher = prepare(recipe({"use": "logits"}, teacher={"recipe": trained(5)}))
    assert (folder / "summary.json").stat().st_mtime_ns == stamp
    assert same_state(alone.student.state_dict(), as_teacher.run.teacher.state_dict())
    assert len(list(own_cache.rglob("summary.json"))) == 1
    assert same_state(load_student(tmp_path / "run", weights="last").state_dict(), result.student.state_dict())


def test_an_option_that_is_a_recipe_is_named_by_a_file_beside_the_recipe(tmp_path: Path):
    (tmp_path / "peer.toml").write_text(Recipe.from_dict(trained(5)).to_toml(), encoding="utf-8")
    made = Recipe.from_dict(tables(plugins=[peers(recipe="peer.toml")], run__base=str(tmp_path), teacher=None))
    assert made.plugins[0]["peer"]["recipe"]["run"]["name"] == "net-5"
    own = made.to_dict()
    own["plugins"][0]["peer"]["recipe"]["run"]["name"] = "other"
    assert Recipe.from_dict(own).digest() == made.digest()
    with pytest.raises(StillhouseError, match=r"plugins\[0\]\.peer\.recipe: .*file not found"):
        Recipe.from_dict(tables(plugins=[peers(recipe="gone.toml")], run__base=str(tmp_path)))


def test_options_that_are_no_recipes_give_models_of_their_own(tmp_path: Path):
    net = {"model": "support:TinyNet", "args": {"width": 5}}
    made = recipe(peers(**net, random=True), {**peers(**net, random=True), "name": "other"}, teacher=None)
    training = prepare(made)
    one, other = (training.run.module(a.plugin) for a in training.actives)
    assert not same_state(one.state_dict(), other.state_dict())
    again = prepare(made)
    assert same_state(one.state_dict(), again.run.module(again.actives[0].plugin).state_dict())
    weights = TinyNet(width=5)
    torch.save(weights.state_dict(), tmp_path / "weights.pt")
    told = {**net, "normalize": "same", "classes": "same"}
    filled = prepare(recipe(peers(**told, checkpoint=str(tmp_path / "weights.pt")), teacher=None))
    assert same_state(filled.run.module(filled.actives[0].plugin).state_dict(), weights.state_dict())
    with pytest.raises(StillhouseError, match=r"plugin 'peer': peer\.checkpoint: .*file not found"):
        prepare(recipe(peers(**net, checkpoint="gone.pt"), teacher=None))


def test_a_run_whose_option_is_a_recipe_resumes_bit_for_bit(tmp_path: Path):
    made = recipe(peers(recipe=trained(5)), teacher=None, checkpoints={"every_steps": 1})
    whole = train(made, out=tmp_path / "whole")
    interrupted(prepare_run(made, out=tmp_path / "cut"), at=4)
    resumed = train(made, out=tmp_path / "cut", resume=True)
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


def test_nothing_is_trained_for_an_option_of_a_run_that_cannot_be(own_cache: Path):
    wrong = {**FEATURES, "links": [{"student": "bodi", "teacher": "body"}]}
    with pytest.raises(StillhouseError, match="no layer 'bodi'"):
        prepare(recipe(peers(recipe=trained(5)), wrong))
    assert not list(own_cache.rglob("summary.json"))
