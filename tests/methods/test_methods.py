"""Published methods as packages of other people: they train, resume bit for bit, and are what the papers' formulas give.

Each module beside this one is a distribution's whole source. It is put on the path with an entry point, as pip leaves it, and
run by that name. The references are of torch alone.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ignite.engine import Events
from support import interrupted, same_state
from support.formulas import (
    attention_transfer,
    crd,
    dist,
    divergence,
    exits,
    learned_temperature,
    mean_teacher,
    mix,
    move_average,
    mutual,
    nst,
    review,
    rkd,
    second_view,
    sure,
    two_teachers,
    vid,
    without_conflicts,
)
from support.imports import is_public, modules
from support.methods import METHODS, Hand, method_recipe, net, source
from torch import Tensor
from torch.nn import functional as F

from stillhouse import Recipe, prepare, train

NAMES = sorted(path.stem for path in METHODS.glob("*.py") if not path.stem.startswith("test_"))
LINK = {"use": "features", "distance": "none", "links": [{"student": "stage2", "teacher": "stage2", "pool": "none"}]}
VECTORS = {"use": "features", "distance": "none", "links": [{"student": "stage3", "teacher": "stage3"}]}


class Case(NamedTuple):
    """How a method is run, and what it is compared with."""

    loss: Callable[[Hand], Tensor]
    options: Mapping[str, Any] = {}
    before: tuple[Mapping[str, Any], ...] = ()
    by_hand: Mapping[str, Any] = {}
    changes: Mapping[str, Any] = {}


CASES = {
    "attention_transfer": Case(attention_transfer, before=(LINK,)),
    "crd": Case(crd, before=(VECTORS,)),
    "dist": Case(dist, {"temperature": 2.0, "gamma": 2.0}),
    "exits": Case(exits, changes={"teacher": None}),
    "learned_temperature": Case(learned_temperature),
    "mean_teacher": Case(mean_teacher, {"decay": 0.9}, by_hand={"after": move_average}, changes={"teacher": None}),
    "mixed_inputs": Case(
        lambda h: 16 * divergence(h.logits, h.wanted, 4.0),
        {"alpha": 0.5},
        before=({"use": "logits", "temperature": 4.0},),
        by_hand={"before": mix},
    ),
    "mutual": Case(mutual, changes={"teacher": None}),
    "nst": Case(nst, {"student": "stage2", "teacher": "stage2"}),
    "pcgrad": Case(
        lambda h: F.cross_entropy(h.logits, (h.y + 1) % 3),
        before=({"use": "support.methods:Opposed", "name": "opposed"},),
        by_hand={"backward": without_conflicts},
        changes={"teacher": None},
    ),
    "review": Case(review),
    "rkd": Case(rkd, before=(VECTORS,)),
    "sample_weights": Case(lambda h: torch.zeros(()), by_hand={"task": sure}),
    "second_view": Case(second_view),
    "two_teachers": Case(
        two_teachers, {"temperature": 2.0}, changes={"teachers": {"second": {**net(8), "random": True}}}
    ),
    "vid": Case(vid, before=(LINK,)),
}


@pytest.fixture
def recipe_of(fake_distribution):
    """``recipe_of(name)``: the method installed, and a short run of it."""

    def make(name: str) -> Recipe:
        text, found, _ = source(name)
        case, use = CASES[name], name.replace("_", "-")
        fake_distribution(f"outside-{use}", {use: f"outside_{name}:{found}"}, text)
        return method_recipe(*case.before, {"use": f"outside-{use}:{use}", "name": use, **case.options}, **case.changes)

    return make


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_method_trains_as_its_formula_by_hand_and_resumes_bit_for_bit(name: str, recipe_of, tmp_path: Path):
    recipe, case = recipe_of(name), CASES[name]
    whole, losses = prepare(recipe, out=tmp_path / "whole"), []
    whole.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output)))
    start = copy.deepcopy(whole.run.student.state_dict())
    whole.fit()
    student = whole.run.student.state_dict()
    assert not same_state(start, student)

    hand = Hand(recipe)
    expected = hand.train(case.loss, **case.by_hand)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(student, hand.student.state_dict(), rtol=1e-5, atol=1e-5)
    for own in list(whole.run.composition.modules_of.values())[:1]:
        torch.testing.assert_close(own.state_dict(), hand.own.state_dict(), rtol=1e-6, atol=1e-5)

    interrupted(prepare(recipe, out=tmp_path / "cut"), at=4)  # of three steps an epoch
    resumed = train(recipe, out=tmp_path / "cut", resume=True)
    assert resumed.summary["resumed_at_step"] == 4
    assert same_state(student, resumed.student.state_dict())


def test_a_chain_of_assistants_is_recipes_in_recipes(tmp_path: Path):
    """Teacher assistants (Mirzadeh et al., 1902.03393): no plugin beside logit distillation is needed."""

    def link(width: int, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
        plugins = [{"use": "logits", "temperature": 2.0}] if teacher else []
        given = {"recipe": teacher} if teacher else None
        return method_recipe(*plugins, student=net(width), teacher=given).to_dict()

    chain, knowledge = [], None
    for width in (8, 6, 4):
        chain.append(link(width, chain[-1] if chain else None))
    for tables in chain:
        hand = Hand(Recipe.from_dict(tables), knowledge)
        hand.train(lambda h: 4 * divergence(h.logits, h.wanted, 2.0) if h.teacher is not None else torch.zeros(()))
        knowledge = hand.student.state_dict()
    recipe = Recipe.from_dict(chain[-1])
    whole = train(recipe, out=tmp_path / "whole")
    torch.testing.assert_close(whole.student.state_dict(), knowledge, rtol=0, atol=1e-5)
    interrupted(prepare(recipe, out=tmp_path / "cut"), at=4)
    resumed = train(recipe, out=tmp_path / "cut", resume=True)
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_short_says_where_it_is_from_and_uses_what_is_public(name: str):
    text, found, tree = source(name)
    assert len(text.splitlines()) <= 60
    head = ast.get_docstring(tree) or ""
    assert any(part.strip("():,.").replace(".", "").isdigit() for part in head.split()), "the paper's number"
    (made,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == found)
    assert ast.get_docstring(made)
    for node in ast.walk(tree):
        taken = [node.module] if isinstance(node, ast.ImportFrom) else []
        taken += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in taken:
            if module.split(".")[0] == "stillhouse":
                assert module in modules(), module
                assert is_public(module), module
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), node.attr


def test_a_method_is_tried_for_each_module():
    assert sorted(CASES) == NAMES
