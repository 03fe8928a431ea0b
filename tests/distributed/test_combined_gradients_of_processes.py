"""A plugin that combines gradients does in two processes, with DDP and with FSDP2, what it does in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.pcgrad import PCGRAD, by_hand, check_weights, conflicting
from support.process_support import alone, found, start

from stillhouse import Recipe, load_student, train

WIDE = 90
"""Wide enough that each block of the student is spread by itself."""


def in_two(tables: dict[str, Any], out: Path) -> None:
    ended = start(tables, out)
    assert [code for code, _ in ended] == [0, 0], ended


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return by_hand(conflicting(width=WIDE))[0]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("shard", ["none", "student"])
def test_two_processes_equal_one_by_hand(tmp_path, expected, shard: str, parts: int):
    in_two(conflicting(PCGRAD, width=WIDE, run={"accumulate": parts}, distributed={"shard": shard}), tmp_path / "two")
    check_weights(load_student(tmp_path / "two" / "run"), expected)
    assert found(tmp_path / "two")["norm"] == found(tmp_path / "two", 1)["norm"]


@pytest.mark.parametrize("shard", ["none", "student"])
def test_in_float16_two_processes_equal_one_as_far_as_it_goes(tmp_path, shard: str):
    tables = conflicting(PCGRAD, width=WIDE, run={"precision": "float16"})
    in_two({**tables, "distributed": {"shard": shard}}, tmp_path / "two")
    alone_in_one = train(Recipe.from_dict(tables), write=False).student.state_dict()
    check_weights(load_student(tmp_path / "two" / "run"), alone_in_one, rtol=2e-3)
    assert found(tmp_path / "two")["norm"] == found(tmp_path / "two", 1)["norm"]


def test_random_choices_of_the_plugin_are_the_first_processs(tmp_path):
    in_two(conflicting({**PCGRAD, "shuffle": True}), tmp_path / "two")
    first, second = found(tmp_path / "two"), found(tmp_path / "two", 1)
    assert first["norm"] == second["norm"]
    assert first["curve"] == second["curve"]


def test_buffers_are_the_first_processs_in_every_step(tmp_path):
    tables = conflicting({"use": "support.pcgrad:RankBuffer", "name": "rank"}, PCGRAD)
    in_two(tables, tmp_path / "two")
    term = np.array(found(tmp_path / "two")["curve"])[:, -1]
    assert len(term) == 6
    assert not term.any()  # where the second process kept its own, the mean would be a half


def test_with_the_same_seed_one_process_has_the_curve_of_two(tmp_path):
    tables = conflicting(PCGRAD, width=WIDE)
    in_two(tables, tmp_path / "two")
    np.testing.assert_allclose(found(tmp_path / "two")["curve"], alone(tables)[0], rtol=1e-5)
