"""A plugin that combines gradients does in two processes, with DDP and with FSDP2, what it does in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pcgrad import PCGRAD, by_hand, check_weights, conflicting
from support.process_support import found, start

from stillhouse import Recipe, load_student, train
from stillhouse.distributed.fsdp import spreads_on_cpu

WIDE = 90
"""Wide enough that each block of the student is spread by itself."""


def in_two(tables: dict[str, Any], out: Path) -> Any:
    """The student after the last step of two processes, whose weights are one."""
    ended = start(tables, out)
    assert [code for code, _ in ended] == [0, 0], ended
    assert found(out)["norm"] == found(out, 1)["norm"]
    return load_student(out / "run", weights="last")


@pytest.mark.parametrize("shard", ["none", "student"] if spreads_on_cpu() else ["none"])
def test_two_processes_equal_one_by_hand(tmp_path, shard: str):
    expected, _ = by_hand(conflicting(width=WIDE))
    tables = conflicting(PCGRAD, width=WIDE, run={"accumulate": 2}, distributed={"shard": shard})
    check_weights(in_two(tables, tmp_path / "two"), expected)


def test_in_float16_two_processes_equal_one_as_far_as_it_goes(tmp_path):
    tables = conflicting(PCGRAD, run={"precision": "float16"})
    student = in_two(tables, tmp_path / "two")
    check_weights(student, train(Recipe.from_dict(tables), write=False).student.state_dict(), rtol=2e-3)


def test_random_choices_and_buffers_are_the_first_processs(tmp_path):
    rank = {"use": "support.pcgrad:RankBuffer", "name": "rank"}
    in_two(conflicting(rank, {**PCGRAD, "shuffle": True}), tmp_path / "two")
    first, second = found(tmp_path / "two"), found(tmp_path / "two", 1)
    assert first["curve"] == second["curve"]
    term = np.array(first["curve"])[:, -1]
    assert len(term) == 6
    assert not term.any()  # where the second process kept its own, the mean would be a half
