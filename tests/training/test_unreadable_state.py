"""State that could be written and never be read back: refused by its key, before hours are spent."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import TinyNet, recipe

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare, train
from stillhouse.models.checkpoint_file import find_unreadable


class Keeping(TinyNet):
    """A student with a numpy scalar as its extra state, as quantisers have."""

    def get_extra_state(self) -> Any:
        return np.float64(3.0)

    def set_extra_state(self, state: Any) -> None:
        pass


class WithScalar(torch.optim.AdamW):
    """Keeps a numpy scalar for each parameter."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["trust"] = np.float64(1.0)
        return found


class WithDeque(torch.optim.AdamW):
    """Keeps a deque in each group."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["history"] = deque(maxlen=3)


def test_a_modules_state_that_could_not_be_read_is_refused_before_the_first_step(tmp_path: Path):
    training = prepare(recipe(), student=Keeping(), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    (fault,) = caught.value.faults
    assert fault.where == "checkpoints: model"
    assert (
        fault.what
        == "'student._extra_state' is a numpy.float64, and a checkpoint with it could be written but never read"
    )
    assert training.run.trainer.state.iteration == 0
    assert not (tmp_path / "run").exists()
    train(recipe(), student=Keeping(), write=False)  # which writes none


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("WithScalar", "'state.0.trust' is a numpy.float64"),
        ("WithDeque", "'param_groups[0].history' is a collections.deque"),
    ],
)
def test_an_optimizers_state_that_could_not_be_read_is_refused_after_the_first_step(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.optim, name, globals()[name], raising=False)
    monkeypatch.setitem(
        __import__("stillhouse.training.optimizers", fromlist=["_KNOWN"])._KNOWN, name.lower(), globals()[name]
    )
    training = prepare(recipe(optimizer={"name": name.lower()}), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    assert says in caught.value.faults[0].what
    assert caught.value.faults[0].where == "checkpoints: optimizer"
    assert training.run.trainer.state.iteration <= 1
    assert not (tmp_path / "run").exists()


def test_a_state_that_becomes_unreadable_later_is_refused_before_a_file_is_written(tmp_path: Path):
    class Changing(TinyNet):
        kept: Any = 1.0

        def get_extra_state(self) -> Any:
            return self.kept

        def set_extra_state(self, state: Any) -> None:
            pass

    student = Changing()

    @plugin
    class Change(Plugin):
        """Puts something unreadable into the student's state in the second epoch."""

        @hookimpl
        def epoch_started(self, run):
            if run.trainer.state.epoch == 2:
                student.kept = {"inner": [slice(1)]}

    with pytest.raises(StillhouseError, match=r"'student\._extra_state\.inner\[0\]' is a slice"):
        train(recipe(), student=student, plugins=[Change()], out=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last_3.pt").exists()


def test_what_torch_reads_back_is_let_through():
    state = {
        "a": torch.zeros(2),
        "b": [1, 2.0, "c", None, True, b"d"],
        3: (torch.Size([1]), torch.float16),
        "e": {1, 2},
    }
    assert find_unreadable(state) == []
