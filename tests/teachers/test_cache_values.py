"""A cache's key has all that a teacher answers by: attributes of any kind, hooks, base classes, the file that it stands in."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillhouse.teachers.cache.key import _architecture
from stillhouse.teachers.cache.values import describe_value


class Shift(nn.Module):
    """Adds what it holds, whatever that is."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def add(x: float, y: float) -> float:
    return x + y


def make_closure(number: float) -> Any:
    return lambda x: x + number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 1), torch.zeros(1, 2)),
        (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
        (torch.ones(5000).to_sparse(), torch.ones(5000).index_fill(0, torch.tensor([2500]), 2.0).to_sparse()),
        (np.array([[1], [2, 3]], dtype=object), np.array([[1], [2, 4]], dtype=object)),
        (np.zeros(2), np.ones(2)),
        ([{"a": torch.zeros(1)}], [{"a": torch.ones(1)}]),
        (SimpleNamespace(mean=0.0), SimpleNamespace(mean=3.0)),
        (functools.partial(add, 0.0), functools.partial(add, 3.0)),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x, y=1: x + y, lambda x, y=2: x + y),
        (make_closure(1.0), make_closure(2.0)),
        (Path("a"), Path("b")),
        (1 + 2j, 1 + 3j),
        ({1, 2}, {1, 3}),
    ],
)
def test_another_value_is_another_teacher(one: Any, other: Any):
    assert _architecture(Shift(one)) == _architecture(Shift(one))
    assert _architecture(Shift(one)) != _architecture(Shift(other))


def test_a_hook_is_part_of_a_teacher():
    plain, hooked, other = Shift(0), Shift(0), Shift(0)
    hooked.linear.register_forward_hook(lambda _m, _i, out: out + 1)
    other.linear.register_forward_pre_hook(lambda _m, given: (given[0] + 1,))
    assert len({_architecture(model) for model in (plain, hooked, other)}) == 3


def test_what_refers_to_itself_or_has_no_content_is_described():
    cyclic: dict[str, Any] = {"lock": threading.Lock()}
    cyclic["again"] = cyclic
    assert describe_value(cyclic) == {"lock": "_thread:lock", "again": "again"}
    assert describe_value(nn.Linear) == "torch.nn.modules.linear:Linear"


CODE = """
from torch import nn
OTHER = {other}
def helper(x):
    return x + {helper}
class Base(nn.Module):
    def forward(self, x):
        return helper(x) * {base}
class Child(Base):
    kinds = lambda self, x: x in {{"one", "two", "three"}}
"""
PRINT = """
import sys
sys.path.insert(0, {folder!r})
import teachers_module
from stillhouse.teachers.cache.key import _architecture
model = teachers_module.Child()
model.kinds = teachers_module.Child.kinds
print(_architecture(model))
"""


def hash_in_a_process(folder: Path, seed: str = "0", **values: int) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "teachers_module.py").write_text(CODE.format(**{"other": 0, "helper": 0, "base": 1, **values}))
    done = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", PRINT.format(folder=str(folder))],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
    )
    return done.stdout.strip()


def test_base_classes_and_helpers_count_and_the_process_does_not(tmp_path: Path):
    first = hash_in_a_process(tmp_path / "a")
    assert hash_in_a_process(tmp_path / "b", seed="7") == first
    assert hash_in_a_process(tmp_path / "c", base=2) != first
    assert hash_in_a_process(tmp_path / "d", helper=2) != first
