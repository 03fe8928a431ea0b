"""TensorBoard: what is there, at the right steps; plugins' scalars and figures; one copy at logged steps only."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.metrics import Accuracy
from support import FEATURES, FIVE, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import Plugin, Step, StillhouseError, Weight, hookimpl, plugin, prepare, train
from stillhouse_features import Features, LinkOptions
from stillhouse_projector import Projector


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_terms_raw_and_weighted_metrics_rates_speed_texts_and_hparams_are_logged(tmp_path: Path):
    plugins = [{**FEATURES, "weight": {"peak": 3.0, "decay": "linear"}}, FIVE["projector"], FIVE["logits"]]
    train(recipe(*plugins, schedule={"decay": "linear"}), out=tmp_path / "run")
    seen = events(tmp_path / "run")
    scalars = set(seen.Tags()["scalars"])
    assert {
        "loss/total",
        "loss_raw/task",
        "loss_raw/features",
        "loss_weighted/features",
        "loss_raw/logits",
        "learning_rate/student",
        "learning_rate/projector",
        "speed/images_per_second",
        "val/accuracy",
        "test/accuracy",
        "plugin/projector/orthogonality",
    } <= scalars | {"plugin/projector/orthogonality"}
    assert any(tag.startswith("plugin/projector") for tag in scalars)
    raw, weighted = ([(e.step, e.value) for e in seen.Scalars(f"loss_{kind}/features")] for kind in ("raw", "weighted"))
    assert [step for step, _ in raw] == [2, 3, 4, 6]  # every second step, and each epoch's last
    for (step, value), (_, scaled) in zip(raw, weighted, strict=True):
        assert scaled == pytest.approx(3.0 * (1 - (step - 1) / 6) * value, rel=1e-5)
    assert [e.step for e in seen.Scalars("val/accuracy")] == [3, 6]
    assert all(e.value > 0 for e in seen.Scalars("speed/images_per_second"))
    texts = {
        tag: seen.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in seen.Tags()["tensors"] if "text" in tag
    }
    assert "[[plugins]]" in texts["recipe/text_summary"]
    assert "plugins, in order" in texts["composition/text_summary"]
    assert any(tag.startswith("_hparams_") for tag in seen.summary_metadata)


def test_samples_a_second_are_those_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seconds = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr("stillhouse.training.scalars.time", clock)
    train(recipe(data__args={"train": 20}, data__drop_last=False, run__log_every=2), out=tmp_path / "run")
    rates = [(e.step, e.value) for e in events(tmp_path / "run").Scalars("speed/images_per_second")]
    assert rates[:2] == [(2, 16.0), (3, 4.0)]  # two batches of 8, then the last one of 4


PAIR = (
    Features(links=[LinkOptions(student="body", teacher="body")]),
    Projector(kind="linear"),
)


@plugin
class Broken(Plugin):
    """A term that is not a number, from its ``start`` on."""

    weight: Weight = 1.0
    start: int = 0

    @hookimpl
    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        return {"": step.student.output.sum() * (float("nan") if step.iteration >= self.start else 0.0)}


def test_a_term_that_is_broken_from_the_start_is_named_alone_before_it_spreads(tmp_path: Path):
    with pytest.raises(StillhouseError) as caught:
        train(recipe(), plugins=[*PAIR, Broken()], out=tmp_path / "run")
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == ("step 1", "the loss term 'broken' of plugin 'broken' is not finite")
    assert "checkpoint" not in fault.hint, "there is none yet"


def test_terms_that_broke_between_two_looks_are_named_together_and_how_to_tell_them_apart(tmp_path: Path):
    with pytest.raises(StillhouseError) as caught:
        train(recipe(run__log_every=3), plugins=[*PAIR, Broken(start=4)], out=tmp_path / "run")
    assert [fault.what.split("'")[1] for fault in caught.value.faults] == ["task", "features", "broken"]
    assert all("run.log_every = 1 does" in fault.hint for fault in caught.value.faults)
    assert all("the last good checkpoint is kept" in fault.hint for fault in caught.value.faults)


def test_another_writer_of_events_is_not_used_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=None))  # ignite would call it
    train(recipe(), out=tmp_path / "run")
    assert any(tag.startswith("_hparams_") for tag in events(tmp_path / "run").summary_metadata)


def test_the_total_is_the_sum_of_the_weighted_terms(tmp_path: Path):
    plugins = [{**FEATURES, "weight": 2.0}, FIVE["projector"], {**FIVE["spectral"], "weight": 0.5}]
    train(recipe(*plugins), out=tmp_path / "run")
    seen = events(tmp_path / "run")
    terms = [tag for tag in seen.Tags()["scalars"] if tag.startswith("loss_weighted/")]
    assert len(terms) == 3
    totals = [e.value for e in seen.Scalars("loss/total")]
    for i, total in enumerate(totals):
        assert sum(seen.Scalars(tag)[i].value for tag in terms) == pytest.approx(total, rel=1e-5)


@plugin
class Showing(Plugin):
    """Gives scalars, a figure and a metric."""

    asked: Any = None
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        return {"": step.student.output.square().mean()}

    @hookimpl
    def scalars(self, step):
        self.asked.append(step.iteration + 1)
        return {"norm": step.student.output.norm()}

    @hookimpl
    def figures(self, run):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
        return {"line": figure}

    @hookimpl
    def metrics(self, assembly):
        return {"mine": Accuracy(lambda s: (s["output"], s["target"]))}


def test_plugins_show_scalars_figures_and_metrics(tmp_path: Path):
    asked: list[int] = []
    result = train(recipe(run__figures=True), plugins=[Showing(asked=asked)], out=tmp_path / "run")
    assert asked == [2, 3, 4, 6]
    seen = events(tmp_path / "run")
    assert [e.step for e in seen.Scalars("plugin/showing/norm")] == [2, 3, 4, 6]
    assert [e.step for e in seen.Images("showing/line")] == [6]
    assert result.metrics["val"]["mine"] == result.metrics["val"]["accuracy"]
    assert [e.step for e in seen.Scalars("val/mine")] == [3, 6]


def test_a_metric_of_a_name_that_is_taken_is_refused():
    @plugin
    class Taken(Plugin):
        """Gives a second accuracy."""

        @hookimpl
        def metrics(self, assembly):
            return {"accuracy": Accuracy()}

    with pytest.raises(StillhouseError, match="plugin 'taken': gives a metric 'accuracy', which is there already"):
        prepare(recipe(), plugins=[Taken()], write=False)


def test_a_resumed_run_shows_each_step_once(tmp_path: Path):
    from ignite.engine import Events

    class Killed(BaseException):
        pass

    def stop() -> None:
        raise Killed

    training = prepare(recipe(run__epochs=3, run__log_every=1), out=tmp_path / "run")
    training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=6), stop)
    with pytest.raises(Killed):
        training.fit()
    train(recipe(run__epochs=3, run__log_every=1), out=tmp_path / "run", resume=True)
    assert [e.step for e in events(tmp_path / "run").Scalars("loss/total")] == list(range(1, 10))


@pytest.mark.filterwarnings("ignore:tiny. val/loss not finite")
def test_parameters_that_are_not_finite_are_found_before_a_checkpoint_is_written(tmp_path: Path):
    @plugin
    class Poison(Plugin):
        """Makes a parameter NaN after the epoch's last loss was looked at."""

        @hookimpl
        def epoch_completed(self, run):
            run.student.head.bias.data[0] = float("nan")

    with pytest.raises(StillhouseError, match=r"not finite in student.head.bias: no checkpoint is written"):
        train(recipe(), plugins=[Poison()], out=tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*.pt"))


def test_the_learning_rate_that_is_logged_is_the_steps_own(tmp_path: Path):
    train(recipe(schedule={"decay": "linear"}, run__log_every=1), out=tmp_path / "run")
    logged = [e.value for e in events(tmp_path / "run").Scalars("learning_rate/student")]
    assert logged == pytest.approx([1e-2 * (1 - step / 6) for step in range(6)], rel=1e-6)


def test_handlers_of_the_callers_find_the_epochs_metrics_and_the_split():
    from ignite.engine import Events

    training = prepare(recipe(), write=False)
    seen: list[float] = []
    splits: list[str] = []
    run = training.run
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(run.metrics["val"]["accuracy"]))
    run.evaluator.add_event_handler(Events.COMPLETED, lambda e: splits.append(e.state.split))
    result = training.fit()
    assert seen == [e["accuracy"] for e in result.history]
    assert splits == ["val", "val", "test"]


def test_a_run_under_no_grad_trains_all_the_same():
    import torch

    with torch.no_grad():
        result = train(recipe(), write=False)
    assert result.metrics == train(recipe(), write=False).metrics
