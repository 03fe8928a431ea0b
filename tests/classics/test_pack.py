"""Each classic on the digits: it trains, resumes bit for bit, leaves the teacher alone, and minds neither precision nor a batch of two."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from support import interrupted, same_state
from support.classics import LISTS, TEACHERLESS, digits
from support.imports import ROOT

from stillhouse import Recipe, prepare, train
from stillhouse.entries import installed
from stillhouse.loop.phases import Phase

NAMES = sorted(LISTS)
PACK = "stillhouse-classics"


def recipe_of(name: str, **changes) -> Recipe:
    tables = {"teacher": None} if name in TEACHERLESS else {}
    return digits(*LISTS[name], **tables, **changes)


def test_every_entry_point_is_tried_and_is_its_modules_name():
    found = {entry.use: entry.target for entry in installed() if entry.distribution == PACK}
    assert sorted(found) == NAMES
    for use, target in found.items():
        assert target.startswith(f"stillhouse_classics.{use}:")


def test_the_readme_says_of_each_what_it_needs_what_it_costs_and_when_to_use_it():
    text = (ROOT / "plugins/classics/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.+)\|$", text.partition("## Options")[0], re.MULTILINE)
    assert [name for name, _ in rows] == NAMES
    assert all(len(cells.split(" | ")) == 4 for _, cells in rows)
    page = (ROOT / "docs/classics.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"- `{name}`: " not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_resumes_bit_for_bit_and_leaves_the_teacher_alone(name: str, tmp_path: Path):
    recipe = recipe_of(name)
    training = prepare(recipe, out=tmp_path / "whole")
    run = training.run
    teacher = run.teacher
    before = copy.deepcopy(teacher.state_dict()) if teacher is not None else {}
    raw: list[dict[str, float]] = []
    run.trainer.add_event_handler(
        Phase.LOSSES_COMPUTED, lambda e: raw.append({k: float(v.detach()) for k, v in e.state.step.losses.items()})
    )
    training.fit()
    assert len(raw) == 2
    assert any(key.split("/")[0] == name for key in raw[0])
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in raw)
    if teacher is not None:
        assert same_state(before, teacher.state_dict())
        assert not any(part.training for part in teacher.modules())
        assert all(p.grad is None for p in teacher.parameters())

    plain = train(digits(**({"teacher": None} if name in TEACHERLESS else {})), write=False)
    student = run.student.state_dict()
    assert not same_state(plain.student.state_dict(), student)

    interrupted(prepare(recipe, out=tmp_path / "cut"), at=1)
    resumed = train(recipe, out=tmp_path / "cut", resume=True)
    assert resumed.summary["resumed_at_step"] == 1
    assert same_state(student, resumed.student.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch_size", "precision"), [(2, "bfloat16"), (10, "float16")])
def test_its_terms_are_float32_and_finite_in_half_precision_and_in_batches_of_two(
    name: str, batch_size: int, precision: str
):
    run = {"name": "half", "epochs": 1, "device": "cpu", "precision": precision}
    training = prepare(recipe_of(name, run=run, batch_size=batch_size), write=False)
    seen: list[torch.Tensor] = []
    training.run.trainer.add_event_handler(
        Phase.LOSSES_COMPUTED, lambda e: seen.extend(v.detach() for v in e.state.step.losses.values())
    )
    if precision == "bfloat16":  # in float16 the scale may be too large at first, and such a step is left out
        training.run.trainer.add_event_handler(
            Phase.BACKWARD_COMPLETED,
            lambda e: seen.extend(p.grad for p in training.run.student.parameters() if p.grad is not None),
        )
    training.fit()
    assert {x.dtype for x in seen} == {torch.float32}
    assert all(x.isfinite().all() for x in (*seen, *training.run.student.parameters()))
