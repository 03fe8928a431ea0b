"""Checkpoints: a run goes on bit for bit, and in its own folder alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from support import FEATURES, FIVE, TESTS, Killed, command, interrupted, recipe, same_state, tables

from stillhouse import Plugin, Recipe, StillhouseError, StillhouseWarning, Weight, hookimpl, plugin, prepare, train
from stillhouse.models.weights import find_last_checkpoint, read_checkpoint

AUGMENTED = {
    "data__transforms": [{"use": "RandomCrop", "size": 6, "padding": 1}, {"use": "RandomHorizontalFlip"}],
    "schedule": {"warmup": 0.3, "decay": "cosine"},
    "checkpoints": {"every_steps": 1},
    "run__epochs": 3,
}

SUBSETS = [s for n in range(6) for s in itertools.combinations(FIVE, n)]


def is_valid(subset: tuple[str, ...]) -> bool:
    """Normalizer and projector need links; features of unequal width need the projector."""
    if {"normalizer", "projector"} & set(subset) and "features" not in subset:
        return False
    return "features" not in subset or "projector" in subset


@pytest.mark.parametrize("subset", [s for s in SUBSETS if is_valid(s)], ids=lambda s: "+".join(s) or "none")
def test_every_valid_subset_resumes_bit_for_bit_with_0_and_2_workers(subset: tuple[str, ...], tmp_path: Path):
    plugins = [FIVE[name] for name in subset]
    if "spectral" in subset:
        plugins[list(subset).index("spectral")] = {**FIVE["spectral"], "method": "warm"}
    drawn = {**AUGMENTED, "run__figures": len(subset) == len(FIVE)}
    whole = train(recipe(*plugins, **drawn), write=False)
    at = 1 + len(subset)  # some step in mid-epoch, another for each size of subset
    for workers in (0, 2):
        out = tmp_path / str(workers)
        changed = {**drawn, "data__workers": workers}
        interrupted(prepare(recipe(*plugins, **changed), out=out), at=at if at % 3 else at + 1)
        resumed = train(recipe(*plugins, **changed), out=out, resume=True)
        assert resumed.summary["resumed_at_step"] > 0
        assert same_state(whole.student.state_dict(), resumed.student.state_dict())
        assert whole.metrics == resumed.metrics
        assert whole.history == resumed.history


@pytest.mark.parametrize("subset", [s for s in SUBSETS if not is_valid(s)], ids="+".join)
def test_every_invalid_subset_is_refused_with_the_reason(subset: tuple[str, ...]):
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(*(FIVE[name] for name in subset)), write=False)
    text = str(caught.value)
    assert "needs 'links', which no active plugin provides" in text or "link 'features/body'" in text


@plugin
class Stateful(Plugin):
    """Draws random numbers, keeps a buffer, and changes it at the end of each epoch."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        module = torch.nn.Module()
        module.register_buffer("level", torch.ones(()))
        return module

    @hookimpl
    def losses(self, step):
        return {"": (step.student.output * torch.rand(3) * step.module(self).level).square().mean()}

    @hookimpl
    def epoch_completed(self, run):
        run.module(self).level += torch.rand(())


@pytest.mark.parametrize("at", range(1, 10))
def test_a_run_cut_after_any_step_ends_the_same(at: int, tmp_path: Path):
    whole = train(recipe(**AUGMENTED), plugins=[Stateful()], write=False)
    training = prepare(recipe(**AUGMENTED), plugins=[Stateful()], out=tmp_path / "run")
    if at < 9:
        interrupted(training, at)
    else:  # after the last checkpoint, before the summary
        training.run.trainer.add_event_handler(Events.COMPLETED, lambda: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            training.fit()
    resumed = train(recipe(**AUGMENTED), plugins=[Stateful()], out=tmp_path / "run", resume=True)
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    assert whole.history == resumed.history
    assert not list((tmp_path / "run" / "checkpoints").glob("tmp*"))


def test_a_run_cut_before_its_first_checkpoint_starts_over(tmp_path: Path):
    whole = train(recipe(), write=False)
    interrupted(prepare(recipe(), out=tmp_path / "run"), at=2)
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") is None
    resumed = train(recipe(), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == 0
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


def test_a_complete_run_gives_its_result_again(tmp_path: Path):
    first = train(recipe(), out=tmp_path / "run")
    again = train(recipe(), out=tmp_path / "run", resume=True)
    assert same_state(first.student.state_dict(), again.student.state_dict())
    assert first.metrics == again.metrics


def test_a_complete_runs_summary_is_not_written_again(tmp_path: Path):
    train(recipe(), out=tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    events = sorted((tmp_path / "run" / "tensorboard").iterdir())
    again = train(recipe(), out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    assert sorted((tmp_path / "run" / "tensorboard").iterdir()) == events
    assert again.summary == json.loads(before)


def test_resuming_in_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StillhouseError, match="not a run folder"):
        train(recipe(), out=tmp_path, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".recipe.toml.123").write_text("what a killed run leaves")
    assert train(recipe(), out=tmp_path / "empty", resume=True).summary["steps_done"] == 6


def test_kill_9_in_mid_epoch_and_resume_from_the_command_line(tmp_path: Path):
    plugins = list(FIVE.values())
    changes = {**AUGMENTED, "run__epochs": 30, "data__workers": 1}
    path = tmp_path / "run.toml"
    path.write_text(Recipe.from_dict(tables(plugins=plugins, **changes)).to_toml())
    whole = train(Recipe.load(path), write=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "stillhouse.cli", "train", str(path), "--out", str(tmp_path / "run"), "--quiet"],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "run" / "checkpoints").glob("last_*.pt")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_at = find_last_checkpoint(tmp_path / "run" / "checkpoints")
    assert killed_at is not None
    assert not (tmp_path / "run" / "summary.json").exists()
    done = command("train", str(path), "--out", str(tmp_path / "run"), "--resume", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_at_step"] > 0
    final = read_checkpoint(find_last_checkpoint(tmp_path / "run" / "checkpoints"), "")
    student = {k.removeprefix("student."): v for k, v in final["model"].items() if k.startswith("student.")}
    assert same_state(whole.student.state_dict(), student)


# The lock -------------------------------------------------------------------------------------------------------------


def test_another_recipe_is_refused_key_by_key(tmp_path: Path):
    train(recipe(FEATURES, {"use": "projector"}), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        train(recipe({"use": "logits"}, optimizer={"lr": 0.5}), out=tmp_path / "run", resume=True)
    text = str(caught.value)
    assert "optimizer.lr was 0.01 and is 0.5" in text
    assert "the run began with the plugins features, projector, and now they are logits" in text


def test_other_versions_are_said_and_the_run_goes_on(tmp_path: Path):
    interrupted(prepare(recipe({"use": "logits"}), out=tmp_path / "run"), at=4)
    path = tmp_path / "run" / "lock.json"
    lock = json.loads(path.read_text())
    lock["versions"]["torch"] = "1.0"
    lock["plugins"][0]["version"] = "0.0.1"
    path.write_text(json.dumps(lock))
    with pytest.warns(StillhouseWarning) as warned:
        train(recipe({"use": "logits"}), out=tmp_path / "run", resume=True)
    said = " ".join(str(w.message) for w in warned)
    assert "torch was 1.0 and is" in said
    assert "plugin logits was version 0.0.1 and is" in said


def test_the_lock_names_plugins_versions_options_and_seeds(tmp_path: Path):
    train(recipe(FEATURES, {"use": "projector", "kind": "linear"}), out=tmp_path / "run")
    lock = json.loads((tmp_path / "run" / "lock.json").read_text())
    assert [(p["use"], p["distribution"]) for p in lock["plugins"]] == [
        ("features", "stillhouse-features"),
        ("projector", "stillhouse-projector"),
    ]
    assert lock["plugins"][1]["options"]["kind"] == "linear"
    assert lock["seed"] == 3
    assert lock["versions"]["torch"] == version("torch")
    again = train(Recipe.load(tmp_path / "run" / "recipe.toml"), out=tmp_path / "again")
    assert again.metrics == train(recipe(FEATURES, {"use": "projector", "kind": "linear"}), write=False).metrics
