"""``train --profile STEPS``: a trace with a range for each plugin and hook, where the time goes, what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support import FIVE, recipe, same_state

from stillhouse import StillhouseError, prepare
from stillhouse.cli import main
from stillhouse.training.profiler import Profiler

LONG: dict[str, Any] = {"data__args": {"train": 80}, "watch": {"enabled": False}}


def test_the_trace_has_a_range_for_each_plugin_and_hook_in_each_step_and_nothing_is_changed(tmp_path: Path):
    made = recipe(*FIVE.values(), **LONG)
    plain = prepare(made, out=tmp_path / "plain")
    plain.fit()
    training = prepare(made, out=tmp_path / "run")
    profiler = Profiler(training, 4)
    training.fit()
    assert same_state(plain.run.composition.state_dict(), training.run.composition.state_dict())
    events = json.loads(gzip.decompress(profiler.path.read_bytes()))["traceEvents"]
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for name in ("features.losses", "normalizer.transform", "projector.optimizer_stepped", "logits.losses"):
        assert ranges.count(name) == 4, name
    assert ranges.count("model.student") == ranges.count("model.teacher") == 4
    items = {item.name: item for item in profiler.items()}
    assert {"student", "teacher", "backward", "optimizer", "features.losses", "waiting for data"} <= set(items)
    assert sum(item.share for item in items.values()) == pytest.approx(1.0)
    assert [item.ms for item in items.values()] == sorted((item.ms for item in items.values()), reverse=True)
    for item in items.values():
        assert Profiler.advise(item)
    assert "'features' does in its hook losses" in Profiler.advise(items["features.losses"])


@pytest.mark.parametrize("steps", [0, 18])
def test_steps_that_the_run_does_not_have_are_refused(tmp_path: Path, steps: int):
    training = prepare(recipe(**LONG), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match=f"--profile: must be from 1 to 17, got {steps}"):
        Profiler(training, steps)
    training.close()


def test_the_command_prints_the_table_and_what_to_do_about_the_largest_item(tmp_path: Path, capsys: Any):
    file = tmp_path / "tiny.toml"
    file.write_text(recipe(FIVE["spectral"], **LONG).to_toml(), encoding="utf-8")
    out = tmp_path / "run"
    assert main(["train", str(file), "--out", str(out), "--quiet", "--profile", "3"]) == 0
    printed = capsys.readouterr().out
    assert "spectral.losses" in printed
    assert "most of it" in printed
    assert f"{out / 'profile.json.gz'}, for https://ui.perfetto.dev" in printed
