"""Ablations that begin at once in one folder: each adds to the plan what is its own, and nobody's is lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support import FIVE, recipe

from stillhouse.experiments import plan as plan_module
from stillhouse.experiments.ablation import make_plan


def test_of_two_that_write_the_plan_at_once_both_have_their_seeds_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plans = [make_plan(recipe(FIVE["logits"], run__seed=seed), seeds=1, out=tmp_path / "a")[0] for seed in (3, 4, 5)]
    read, meeting = plan_module.read_plan, threading.Barrier(3, timeout=10)

    def meet_and_read(folder: Path) -> Any:
        found = read(folder)
        if threading.current_thread() is not threading.main_thread() and not met.get(threading.get_ident()):
            met[threading.get_ident()] = True
            meeting.wait()  # all have seen that there is no plan before one of them writes it
        return found

    met: dict[int, bool] = {}
    monkeypatch.setattr(plan_module, "read_plan", meet_and_read)
    threads = [threading.Thread(target=plan.write) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((tmp_path / "a" / "ablation.json").read_text())["seeds"] == [3, 4, 5]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["ablation.json"]
