"""The averaged weights: their arithmetic, what is measured with them, and that they come back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, TinyNet, recipe, same_state, tiny_data
from support.no_sync import no_synchronisation
from torch import nn

from stillhouse import StillhouseError, prepare, train
from stillhouse.config.run_options import EmaSpec
from stillhouse.loop.phases import Phase
from stillhouse.models.state_dicts import Choice
from stillhouse.models.weights import load_weights, read_averaged_state, read_checkpoint, select_model_state
from stillhouse.training.ema import AveragedWeights


def stop_at(training: Any, step: int) -> None:
    def stop() -> None:
        if training.run.trainer.state.iteration == step:
            raise KeyboardInterrupt

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_that_of_the_definition(warmup: bool):
    torch.manual_seed(0)
    net = TinyNet()
    average = AveragedWeights(net, EmaSpec(decay=0.7, warmup=warmup))
    expected = {k: v.double() for k, v in net.state_dict().items()}
    for n in range(1, 6):
        net.train()(torch.randn(8, 1, 6, 6))  # moves BatchNorm's statistics
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn_like(p)
        average.update()
        decay = min(0.7, (1 + n) / (10 + n)) if warmup else 0.7
        for key, live in net.state_dict().items():
            if live.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * live.double()
            else:
                expected[key] = live.double()
    assert average.weights.keys() == net.state_dict().keys()
    assert int(average.weights["norm.num_batches_tracked"]) == 5
    for key, value in average.weights.items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)


def test_it_follows_the_optimizer_and_leaves_the_training_alone():
    plain = train(recipe(*FIVE.values()), write=False)
    training = prepare(recipe(*FIVE.values(), ema={"decay": 0.5, "warmup": False}), write=False)
    expected = {k: v.clone() for k, v in training.run.student.state_dict().items() if v.is_floating_point()}

    def follow() -> None:
        for key, live in training.run.student.state_dict().items():
            if key in expected:
                expected[key] = 0.5 * expected[key] + 0.5 * live

    training.run.trainer.add_event_handler(Phase.OPTIMIZER_STEPPED, follow)
    result = training.fit()
    assert same_state(plain.student.state_dict(), result.student.state_dict())
    assert training.observers.ema.updates == 6
    assert not any("plugin" in key for key in training.observers.ema.weights)
    for key, value in expected.items():
        torch.testing.assert_close(training.observers.ema.weights[key], value, rtol=1e-5, atol=1e-6)


def test_beside_it_is_measured_as_splits_of_its_own(tmp_path):
    result = train(recipe(*FIVE.values(), ema={"decay": 0.5}), out=tmp_path / "run")
    plain = train(recipe(*FIVE.values()), write=False)
    assert list(result.metrics) == ["val", "val_ema", "test", "test_ema"]
    assert result.metrics["val"] == plain.metrics["val"]
    assert result.metrics["val_ema"] != plain.metrics["val"]
    assert [set(e) for e in result.history] == [
        {*plain.history[0], *(f"ema/{k}" for k in plain.metrics["val"] if k in plain.history[0])}
    ] * 2
    # The average, loaded into a model of its own, measures the same.
    (last,) = (tmp_path / "run" / "checkpoints").glob("last_*.pt")
    student = result.student
    student.load_state_dict(read_averaged_state(read_checkpoint(last, "")))
    images, labels = tiny_data()["test"].tensors
    with torch.no_grad():
        loss = nn.functional.cross_entropy(student(images), labels)
    assert float(loss) == pytest.approx(result.metrics["test_ema"]["loss"], rel=1e-5)


def test_instead_it_is_what_the_run_measures_and_gives(tmp_path):
    beside = train(recipe(ema={"decay": 0.5}), write=False)
    instead = train(recipe(ema={"decay": 0.5, "evaluate": "instead"}), out=tmp_path / "run")
    assert instead.metrics == {"val": beside.metrics["val_ema"], "test": beside.metrics["test_ema"]}
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]
    assert best["val/accuracy"] == max(e["ema/accuracy"] for e in beside.history)
    (path,) = (tmp_path / "run" / "checkpoints").glob("last_*.pt")
    found = read_checkpoint(path, "")
    assert same_state(dict(instead.student.state_dict()), read_averaged_state(found))
    # Whoever loads the run's weights gets those that were measured: a teacher's file, an export.
    loaded = TinyNet(width=4)
    load_weights(loaded, tmp_path / "run", Choice(weights="last"))
    assert same_state(loaded.state_dict(), instead.student.state_dict())
    trained = select_model_state(found, averaged=False)
    assert not torch.equal(trained["student.head.weight"], loaded.head.weight)
    (best_path,) = (tmp_path / "run" / "checkpoints").glob("best_*.pt")
    assert set(read_checkpoint(best_path, "")) == {"model", "ema"}


def test_beside_a_run_gives_the_weights_it_trained(tmp_path):
    result = train(recipe(ema={"decay": 0.5}), out=tmp_path / "run")
    loaded = TinyNet(width=4)
    load_weights(loaded, tmp_path / "run", Choice(weights="last"))
    assert same_state(loaded.state_dict(), result.student.state_dict())


@pytest.mark.parametrize("evaluate", ["beside", "instead"])
def test_a_resumed_run_averages_on_bit_for_bit(evaluate: str, tmp_path):
    made = recipe(*FIVE.values(), ema={"decay": 0.9, "evaluate": evaluate}, checkpoints={"every_steps": 2})
    whole = prepare(made, write=False)
    expected = whole.fit()
    training = prepare(made, out=tmp_path / "run")
    stop_at(training, 5)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    again = prepare(made, out=tmp_path / "run", resume=True)
    result = again.fit()
    assert result.summary["resumed_at_step"] == 4
    assert again.observers.ema.updates == whole.observers.ema.updates == 6
    assert same_state(again.observers.ema.weights, whole.observers.ema.weights)
    assert same_state(result.student.state_dict(), expected.student.state_dict())
    assert result.metrics == expected.metrics
    assert result.history == expected.history


def test_in_place_puts_the_students_own_weights_back_even_after_an_error():
    net = TinyNet()
    average = AveragedWeights(net, EmaSpec(decay=0.5))
    with torch.no_grad():
        net.head.weight += 1
    own = {k: v.clone() for k, v in net.state_dict().items()}
    places = {k: v.data_ptr() for k, v in net.state_dict().items()}

    def fail() -> None:
        with average.in_place():
            assert same_state(net.state_dict(), average.weights)
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    assert same_state(net.state_dict(), own)
    assert {k: v.data_ptr() for k, v in net.state_dict().items()} == places


def test_tied_weights_and_replaced_buffers_are_followed():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("seen", torch.zeros(1))
            self.register_buffer("scratch", torch.zeros(1), persistent=False)

    net = Tied()
    average = AveragedWeights(net, EmaSpec(decay=0.5, warmup=False))
    with torch.no_grad():
        net.a.weight += 2
    net.seen = torch.full((1,), 4.0)  # another tensor in its place
    average.update()
    assert set(average.weights) == {"a.weight", "b.weight", "seen"}
    assert torch.equal(average.weights["a.weight"], average.weights["b.weight"])
    assert average.weights["seen"].item() == 2.0


def test_the_update_does_not_read_a_tensor():
    net = TinyNet()
    average = AveragedWeights(net, EmaSpec())
    with no_synchronisation():
        average.update()
    assert average.updates == 1


def test_what_cannot_be_averaged_is_said():
    with pytest.raises(StillhouseError, match=r"ema\.decay: must be in \[0, 1\), got 1\.0"):
        recipe(ema={"decay": 1.0})
    with pytest.raises(StillhouseError, match="has no averaged weights"):
        read_averaged_state({"model": {}})
    with pytest.raises(StillhouseError, match="needs an \\[ema\\] table"):
        prepare(recipe(), write=False).export(averaged=True)


def test_another_models_average_is_refused():
    average = AveragedWeights(TinyNet(width=4), EmaSpec())
    with pytest.raises(ValueError, match="of another model"):
        average.load_state_dict(AveragedWeights(TinyNet(width=5), EmaSpec()).state_dict())


def test_export_gives_the_average_when_asked():
    training = prepare(recipe(ema={"decay": 0.5}), write=False)
    training.fit()
    weights = {k: v.clone() for k, v in training.observers.ema.weights.items()}
    assert same_state(training.export(averaged=True).state_dict(), weights)


def test_infinities_that_the_student_starts_with_are_its_latest_and_other_values_averaged():
    student = nn.Linear(1, 1)
    student.register_buffer("mask", torch.tensor([-math.inf, 0.0, math.inf]))
    average = AveragedWeights(student, EmaSpec(decay=0.5, warmup=False))
    for value in (4.0, 6.0):
        student.mask[1:] = value
        average.update()
    assert average.weights["mask"].tolist() == [-math.inf, 4.0, 5.0]
