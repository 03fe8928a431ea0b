"""An ablation's arms in TensorBoard: means over the seeds, the band of paired differences, and settings that differ alone."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from support import FEATURES, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from stillhouse import StillhouseWarning
from stillhouse.cli.monitor import find_events
from stillhouse.experiments import ablate
from stillhouse.experiments.arm_events import average_curves, write_events
from stillhouse.experiments.plan import MEAN

PROJECTOR = {"use": "projector"}
SEEDS = (3, 4)
FAST = {"run__epochs": 2, "run__log_every": 1, "run__seed": 3, "teacher__args": {"width": 4}}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished ablation of features and projector under two seeds."""
    folder = tmp_path_factory.mktemp("arms") / "runs"
    ablate(recipe(FEATURES, PROJECTOR, **FAST), seeds=2, out=folder)
    return folder


def test_means_and_paired_differences_are_those_of_the_runs(done: Path):
    curves = {
        arm: [
            {e.step: e.value for e in read(done / arm / f"seed-{seed}" / "tensorboard").Scalars("val/accuracy")}
            for seed in SEEDS
        ]
        for arm in ("none", "full")
    }
    found = read(done / "full" / MEAN)
    for step, event in zip((3, 6), found.Scalars("val/accuracy"), strict=True):
        assert event.step == step
        assert event.value == pytest.approx(statistics.fmean(run[step] for run in curves["full"]))
    differences = [full[6] - none[6] for full, none in zip(curves["full"], curves["none"], strict=True)]
    for end, function in (("mean", statistics.fmean), ("lowest", min), ("highest", max)):
        last = found.Scalars(f"seeds/accuracy less none/{end}")[-1]
        assert last.value == pytest.approx(function(differences), abs=1e-6)
    assert not any("less none" in tag for tag in read(done / "none" / MEAN).Tags()["scalars"])
    assert {"loss_weighted/features", "cost_ms/features"} <= set(found.Tags()["scalars"])


def test_an_arms_line_has_what_differs_alone_and_the_metric(done: Path):
    metadata = read(done / "full" / MEAN).summary_metadata["_hparams_/session_start_info"]
    data = HParamsPluginData.FromString(metadata.plugin_data.content)
    settings = {name: value.string_value for name, value in data.session_start_info.hparams.items()}
    assert settings["arm"] == "full"
    assert settings["seeds"] == "3, 4"
    assert {key: value for key, value in settings.items() if key.startswith("with ")} == {
        "with features": "yes",
        "with projector": "yes",
    }
    assert set(settings) - {"with features", "with projector"} == {"arm", "seeds"}


def test_the_arms_are_monitored_and_each_seeds_run_where_that_is_asked_for(done: Path):
    assert list(find_events([done])) == ["full", "none", "only-features"]
    every = [f"{arm}/{name}" for arm in ("full", "none", "only-features") for name in (MEAN, "seed-3", "seed-4")]
    assert sorted(find_events([done], seeds=True)) == every
    assert list(find_events([done / "full" / "seed-3"])) == ["seed-3"]


def test_the_same_ablation_again_leaves_one_file_of_events(done: Path):
    ablate(recipe(FEATURES, PROJECTOR, **FAST), seeds=2, out=done)
    assert len(list((done / "full" / MEAN).iterdir())) == 1


def test_a_step_that_one_seed_lacks_is_in_no_mean():
    assert average_curves({0: {"a": {1: 1.0, 2: 5.0}, "b": {1: 1.0}}, 1: {"a": {1: 3.0}}}) == {"a": {1: 2.0}}


def test_events_that_cannot_be_written_are_warned_of(done: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(folder: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("stillhouse.experiments.arm_events._read", fail)
    comparison = ablate(recipe(FEATURES, PROJECTOR, **FAST), seeds=1, out=done)
    write_events(comparison)  # one seed has no mean
    with pytest.warns(StillhouseWarning, match="means for TensorBoard are not written: no space left"):
        ablate(recipe(FEATURES, PROJECTOR, **FAST), seeds=2, out=done)
