"""Runs with unlabelled samples: what each loss counts, in parts, in processes, resumed, with a cached teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import TESTS, interrupted, recipe, same_state
from support.process_support import alone, check_curves, found, start
from support.processes import PlainNet
from torch import Tensor

from stillhouse import Plugin, Recipe, Step, StillhouseError, Weight, hookimpl, plugin, prepare
from stillhouse.data import PartlyLabelled
from stillhouse.experiments.arms import make_arms
from stillhouse.loop.phases import Phase
from stillhouse.training.explanation import describe, render_text
from stillhouse.training.output_metrics import OutputMetrics

POOL: dict[str, Any] = {"data__per_class": 4, "data__pool": "rest"}
PLAIN: dict[str, Any] = {
    "student": {"model": "support.processes:PlainNet", "args": {"width": 4}},
    "teacher": {"model": "support.processes:PlainNet", "args": {"width": 6}, "random": True},
}
LOGITS = {"use": "logits", "temperature": 1.0, "weight": 3.0}
DKD = {"use": "dkd", "temperature": 1.0, "weight": 2.0}


@plugin
class LabelledMean(Plugin):
    """The mean of the labelled samples' own logits; remembers what its hooks were shown."""

    requires = ("targets: classes",)

    weight: Weight = 2.0

    @hookimpl
    def losses(self, step: Step) -> dict[str, Tensor]:
        SHOWN.append(step)
        return {"": step.student.output.gather(1, step.targets[:, None]).mean()}

    @hookimpl
    def sample_weights(self, step: Step) -> Tensor:
        return 1.0 + step.targets.float()


SHOWN: list[Step] = []


def first_gradients(tables: Recipe, **options: Any) -> tuple[Any, list[Tensor], dict[str, float]]:
    """The run, its student's gradients in the first step, and that step's losses."""
    training = prepare(tables, write=False, **options)
    kept: list[Tensor] = []
    losses: dict[str, float] = {}

    def keep() -> None:
        if not kept:
            kept.extend(p.grad.clone() for p in training.run.student.parameters() if p.grad is not None)
            losses.update({k: float(v.detach()) for k, v in training.run.trainer.state.step.losses.items()})

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, keep)
    training.fit()
    return training, kept, losses


@pytest.mark.parametrize("terms", ["all", "labelled"])
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_the_tasks_loss_counts_labelled_samples_and_the_plugins_all(terms: str, ratio: float):
    torch.manual_seed(0)
    student, teacher = PlainNet(3), PlainNet(3, width=6)
    reference = PlainNet(3).double()
    reference.load_state_dict(student.state_dict())
    changes = {**POOL, "data__unlabelled_ratio": ratio, "data__terms": terms}
    own = recipe(LOGITS, **changes)
    batch = prepare(own, student=PlainNet(3), teacher=teacher, write=False).first_batch()
    _, gradients, losses = first_gradients(own, student=student, teacher=teacher)
    n = batch.target.number
    assert (n, len(batch.id)) == (8, 8 + int(8 * ratio))
    x, labels = batch.input.double(), batch.target.values[:n]
    counted = slice(None) if terms == "all" else slice(n)
    output = reference(x)
    task = F.cross_entropy(output[:n], labels)
    with torch.no_grad():
        told = teacher.double()(x)
    term = F.kl_div(output.log_softmax(1)[counted], told.softmax(1)[counted], reduction="batchmean")
    (task + 3.0 * term).backward()
    assert losses["task"] == pytest.approx(float(task.detach()), rel=1e-5)
    assert losses["logits"] == pytest.approx(float(term.detach()), rel=1e-4)
    for ours, parameter in zip(gradients, reference.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_plugin_that_needs_classes_sees_the_labelled_part():
    SHOWN.clear()
    training = prepare(recipe(**POOL), plugins=[LabelledMean()], write=False)
    training.fit()
    for step in SHOWN[1:]:
        assert isinstance(step.targets, Tensor)
        assert len(step.ids) == len(step.targets) == len(step.inputs) == len(step.student.output) <= 8
        with pytest.raises(StillhouseError):
            step.total = torch.zeros(())
    few = set(training.data.passes.ids("train").tolist())
    assert set(torch.cat([step.ids for step in SHOWN[1:]]).tolist()) <= few


@pytest.mark.parametrize("terms", ["all", "labelled"])
def test_parts_of_a_batch_give_what_the_whole_gives(terms: str):
    def run(parts: int) -> tuple[list[Tensor], dict[str, float]]:
        changes = {**POOL, **PLAIN, "data__batch_size": 7, "data__unlabelled_ratio": 1.3, "data__terms": terms}
        _, gradients, losses = first_gradients(recipe(LOGITS, DKD, run__accumulate=parts, **changes))
        return gradients, losses

    (whole, losses), (parts, of_parts) = run(1), run(3)
    assert of_parts == pytest.approx(losses, rel=1e-4)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_two_processes_give_what_one_gives(tmp_path: Path):
    run = {"name": "par", "epochs": 4, "seed": 3, "device": "cpu", "log_every": 10, "base": str(TESTS), "threads": 1}
    tables = recipe(LOGITS, DKD, **POOL, **PLAIN, run=run).to_dict()
    curve, result = alone(tables)
    ended = start(tables, tmp_path / "two")
    assert [code for code, _ in ended] == [0, 0], ended
    first = found(tmp_path / "two")
    check_curves(np.array(first["curve"]), curve)
    assert first["metrics"]["test"] == pytest.approx(result.metrics["test"], rel=1e-5)


AUGMENTED = {**POOL, "data__transforms": [{"use": "RandomCrop", "size": 6, "padding": 1}], "data__batch_size": 4}


@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_bit_for_bit_in_the_middle_of_an_epoch(workers: int, tmp_path: Path):
    changes = {**AUGMENTED, "run__epochs": 4, "checkpoints": {"every_steps": 1}}
    plugins = ({"use": "cache", "views": 2}, {**LOGITS}, DKD)
    whole = prepare(recipe(*plugins, **changes), write=False)
    result = whole.fit()
    own = {**changes, "data__workers": workers}
    interrupted(prepare(recipe(*plugins, **own), out=tmp_path / "run"), at=5)
    second = prepare(recipe(*plugins, **own), out=tmp_path / "run", resume=True)
    resumed = second.fit()
    assert resumed.summary["resumed_at_step"] == 5
    assert same_state(whole.run.composition.state_dict(), second.run.composition.state_dict())
    assert resumed.metrics == result.metrics


def test_a_cached_teacher_says_what_a_live_one_says_of_unlabelled_samples():
    (live, _, losses), (cached, _, served) = (
        first_gradients(recipe(*more, LOGITS, **POOL, **PLAIN))
        for more in ((), ({"use": "cache", "store": "float32"},))
    )
    assert served == pytest.approx(losses, rel=1e-5)
    assert len(cached.run.composition.plugin_module("cache").cache) == 24
    assert live.run.teacher is not None


def test_a_run_whose_plugins_give_no_term_draws_none():
    training = prepare(recipe(**POOL), write=False)
    assert not isinstance(training.first_batch().target, PartlyLabelled)
    assert training.recipe.data.pool == "none"
    assert "unlabelled" not in training.run.data.sizes


def test_training_metrics_are_of_labelled_samples():
    training = prepare(recipe(LOGITS, **POOL), write=False)
    metrics = OutputMetrics(training.run.task.metrics(training.run.data))
    values = torch.tensor([0, 1, 2, 2])
    metrics.take_in(torch.eye(3)[[0, 1, 0, 0]] * 9, PartlyLabelled(values, [True, True, False, False], (2, 4)), None)
    assert metrics.compute()["accuracy"] == 1.0


def test_explain_tells_both_counts():
    text = render_text(describe(prepare(recipe(LOGITS, **POOL, data__unlabelled_ratio=2.0), write=False)))
    assert "8 labelled and 16 unlabelled samples a batch" in " ".join(text.split())
    assert "unlabelled 12" in text


def test_the_student_alone_of_an_ablation_is_the_run_that_it_is_asked_for():
    """An arm's recipe, by which its finished run is known again, is the one that the run has."""
    own = recipe(LOGITS, **POOL)
    for arm in make_arms(own, leave_one_out=False, one_at_a_time=False):
        assert prepare(arm.recipe, write=False).recipe.digest() == arm.recipe.digest()
        assert arm.recipe.data.has_unlabelled == (arm.name == "full")


@plugin
class Swaps(Plugin):
    """Replaces targets."""

    changes = ("targets",)

    @hookimpl
    def prepare_batch(self, step: Step) -> None:
        step.targets = step.targets


def test_a_plugin_that_replaces_targets_is_refused():
    with pytest.raises(StillhouseError, match="replaces targets"):
        prepare(recipe(LOGITS, **POOL), plugins=[Swaps(), LabelledMean()], write=False)


def test_a_task_that_calls_its_student_in_its_own_way_is_refused():
    with pytest.raises(StillhouseError, match="knows no unlabelled samples"):
        prepare(recipe(LOGITS, **POOL, task={"name": "self-supervised"}), write=False)


def test_a_batch_with_no_labelled_sample_has_no_loss():
    training = prepare(recipe(LOGITS, **POOL), write=False)
    output = torch.randn(2, 3, requires_grad=True)
    targets = PartlyLabelled(torch.tensor([0, 1]), [False, False], (3, 8))
    loss = training.run.task.loss(output, targets)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert output.grad is not None
    assert not output.grad.any()
    assert float(training.run.task.count(targets)) == 0.0
