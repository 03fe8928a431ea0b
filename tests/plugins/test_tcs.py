"""Runs with the coordinate path: what is trained, mimicked, selected and resumed, on which axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from sklearn.linear_model import LogisticRegression
from support import TESTS, TinyNet, interrupted, recipe, same_state, tiny_data
from support.forks import run
from torch import nn

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.loop.phases import Phase
from stillhouse.students.loader import load_student
from stillhouse_tcs import CoordinateHead, find_axes, save_axes

BASE = {"use": "tcs", "layer": "dropout"}
"""The mean of ``body``, 6 numbers, is what the teacher's dropout is given and, in evaluation, gives."""

PAPER = {**BASE, "preset": "paper"}

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {"preset": "paper"},
    "random": {"axes": "random", "k": 3, "init_head": "random"},
    "identity": {"axes": "identity", "k": 4},
    "logits": {"mimic": "logits"},
    "logits without a path": {"mimic": "logits", "path": "none"},
    "path alone": {"mimic": "none"},
    "fixed head": {"train_head": False, "init_head": "random"},
    "chosen by a probe": {"select": "probe", "keep": 2},
    "chosen in training": {"select": "train", "keep": 2},
    "pool": {},
    "views": {"views": 2},
    "labelled part of a pool": {"mimic_on": "labelled"},
    "pool, views, hashes": {"preset": "paper", "views": 2, "hashes": 10},
}

FEW = {"data__per_class": 4, "data__transforms": [{"use": "RandomCrop", "size": 6, "padding": 1}], "run__epochs": 4}


def draws(variant: str) -> dict[str, Any]:
    """Whether a variant's run draws unlabelled images."""
    return {"data__pool": "all"} if "pool" in variant else {}


def head_of(training: Any) -> CoordinateHead:
    head = training.run.student.head
    assert isinstance(head, CoordinateHead)
    return head


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_trains_without_a_teacher_and_leaves_a_plain_student(variant: str):
    training = prepare(recipe({**BASE, **VARIANTS[variant]}, **FEW, **draws(variant)), write=False)
    assert training.run.teacher is None
    before = {k: v.clone() for k, v in training.run.student.state_dict().items()}
    result = training.fit()
    after = training.run.student.state_dict()
    assert isinstance(result.student.head, nn.Linear)
    assert set(result.student.state_dict()) == set(TinyNet().state_dict())
    assert [p.shape for p in result.student.parameters()] == [p.shape for p in TinyNet().parameters()]
    assert result.student.training is False
    x = torch.stack([tiny_data()["val"][i][0] for i in range(9)])
    logits = training.run.student.eval()(x)
    assert (result.student(x) - logits).abs().max() <= 1e-5 * max(1.0, float(logits.detach().abs().max()))
    if "without" not in variant:
        assert all(torch.equal(before[k], after[k]) for k in ("head.project.axes", "head.mean", "head.scale"))
        assert not torch.equal(before["head.lift.weight"], after["head.lift.weight"])
        changed = not torch.equal(before["head.readout.weight"], after["head.readout.weight"])
        assert changed == (variant != "fixed head")


LONG = {**FEW, "data__batch_size": 4, "checkpoints": {"every_steps": 1}}
"""12 steps: rounds end after steps 3, 5, 6, 8 and 10."""


@pytest.mark.parametrize(
    ("variant", "workers", "at"), [("paper", 0, 4), ("chosen in training", 0, 7), ("pool, views, hashes", 2, 4)]
)
def test_it_resumes_bit_for_bit_between_two_rounds(variant: str, workers: int, at: int, tmp_path: Path):
    options, long = {**BASE, **VARIANTS[variant]}, {**LONG, **draws(variant)}
    whole = prepare(recipe(options, **long), write=False)
    result = whole.fit()
    own = {**long, "data__workers": workers}
    interrupted(prepare(recipe(options, **own), out=tmp_path / "run"), at=at)
    second = prepare(recipe(options, **own), out=tmp_path / "run", resume=True)
    resumed = second.fit()
    assert resumed.summary["resumed_at_step"] == at
    assert same_state(whole.run.composition.state_dict(), second.run.composition.state_dict())
    assert resumed.metrics == result.metrics


def test_a_killed_process_resumes_in_the_middle_of_a_round(tmp_path: Path):
    """The same, killed for good: nothing is cleaned up."""
    (tmp_path / "killed.py").write_text(
        "import os\n"
        "from support import recipe\n"
        "from stillhouse import prepare\n"
        "from ignite.engine import Events\n"
        f"options, changes = {PAPER!r}, {LONG!r}\n"
        f"training = prepare(recipe(options, **changes), out={str(tmp_path / 'run')!r})\n"
        "training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=8), lambda: os.kill(os.getpid(), 9))\n"
        "training.fit()\n"
    )
    done = run("killed", PYTHONPATH=str(tmp_path))
    assert done.returncode == -9, done.stderr
    resumed = train(recipe(PAPER, **LONG), out=tmp_path / "run", resume=True)
    whole = train(recipe(PAPER, **LONG), write=False)
    assert resumed.summary["resumed_at_step"] == 7
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


def test_the_term_is_that_of_the_teachers_own_coordinates():
    teacher = TinyNet(width=6)
    training = prepare(recipe({**BASE, "k": 4, "store": "float32"}), teacher=teacher, write=False)
    head, seen = head_of(training), []

    def compare(engine: Any) -> None:
        step = engine.state.step
        with torch.no_grad():
            features = torch.relu(teacher.body(torch.relu(teacher.norm(teacher.stem(step.inputs))))).mean((2, 3))
            teachers = (features / head.scale - head.mean) @ head.project.axes
        student = step.student.features["head.project"]
        expected = (student - teachers).square().sum(1).mean() / head.energy
        seen.append((float(step.losses["tcs"].detach()), float(expected.detach())))
        total = step.losses["task"] + 5.0 * step.losses["tcs"]
        torch.testing.assert_close(step.total, total)

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, compare)
    training.fit()
    assert len(seen) == 6
    for ours, expected in seen:
        assert ours == pytest.approx(expected, rel=1e-4)


def test_the_head_starts_from_scikit_learns_probe():
    training = prepare(recipe({**BASE, "k": 3, "store": "float32"}), write=False)
    head, data = head_of(training), training.data
    module = training.run.composition.plugin_module("tcs")
    rows = module.cache.take("features/dropout", torch.from_numpy(module.cache.ids)) / head.scale
    c = head.project(rows - head.mean).double().numpy()
    probe = LogisticRegression(max_iter=1000).fit(c, data.passes.labels(module.cache.ids))
    torch.testing.assert_close(head.readout.weight, torch.from_numpy(probe.coef_).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("on", [None, "pool", "labelled"])
def test_unlabelled_images_are_mimicked_unless_it_is_said_otherwise(on: str | None):
    seen = []
    table = {**BASE, "store": "float32", "k": 3, **({} if on is None else {"mimic_on": on})}
    training = prepare(recipe(table, **{**FEW, "data__per_class": 2, "data__pool": "all"}), write=False)
    module, head = training.run.composition.plugin_module("tcs"), head_of(training)
    assert len(module.cache) == (6 if on == "labelled" else 24)

    def compare(engine: Any) -> None:
        step = engine.state.step
        rows = slice(6) if on == "labelled" else slice(None)
        teacher = module.cache.take("features/dropout", step.ids[rows]) / head.scale - head.mean
        student = step.student.features["head.project"][rows]
        expected = (student - teacher @ head.project.axes).square().sum(1).mean() / head.energy
        seen.append((len(step.ids), float(step.losses["tcs"].detach()), float(expected.detach())))

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, compare)
    training.fit()
    assert [rows for rows, *_ in seen] == [12] * 4  # a step an epoch, of six labelled images and as many others
    for _, ours, expected in seen:
        assert ours == pytest.approx(expected, rel=1e-4)


def test_a_pool_that_the_run_does_not_draw_is_refused():
    with pytest.raises(StillhouseError, match="draws none"):
        prepare(recipe({**BASE, "mimic_on": "pool"}, **FEW), write=False)


def test_selection_drops_the_lowest_and_is_seen(tmp_path: Path):
    options = {**BASE, "k": 6, "select": "train", "keep": 2}
    whole = recipe(options, teacher__args={"width": 12}, run__figures=True, **FEW)
    training = prepare(whole, out=tmp_path / "run")
    live: list[float] = []
    training.run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: live.append(float(head_of(training).readout.live.sum()))
    )
    training.fit()
    head = head_of(training)
    assert live[-1] == 2.0
    assert sorted(live, reverse=True) == live
    assert head.readout.history.tolist() == [6, 5, 4, 3, 2, 2]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {f"plugin/tcs/{n}" for n in ("explained_variance", "live_dimensions", "mask_mean", "mask_least")} <= scalars
    assert {"tcs/spectrum", "tcs/mask", "tcs/rounds"} <= set(events.Tags()["images"])


def test_no_epoch_before_the_last_round_is_the_best(tmp_path: Path):
    options = {**BASE, "k": 6, "select": "train", "keep": 2}
    training = prepare(recipe(options, teacher__args={"width": 12}, **{**FEW, "run__epochs": 10}), out=tmp_path / "run")
    run = training.run
    scores = iter([0.9, *[0.1] * 6, 0.3, 0.2, 0.2])  # the rounds end with the eighth epoch of ten
    run.evaluator.add_event_handler(
        Events.COMPLETED, lambda: run.evaluator.state.metrics.update(accuracy=next(scores, 0.5))
    )
    summary = training.fit().summary
    assert run.best_from == 8 * run.steps_per_epoch
    assert [e["accuracy"] for e in summary["history"]] == [0.9, *[0.1] * 6, 0.3, 0.2, 0.2]
    assert summary["best"] == {"epoch": 8, "val/accuracy": 0.3}
    (best,) = (tmp_path / "run" / "checkpoints").glob("best_*.pt")
    assert best.name == f"best_{run.best_from}.pt"
    assert load_student(tmp_path / "run", weights="best") is not None


def test_views_reach_student_and_cache_alike():
    training = prepare(recipe({**BASE, "views": 2}, **FEW), write=False)
    assert training.data.views == 2
    module = training.run.composition.plugin_module("tcs")
    assert module.cache.views == 2


def test_mask_and_offset_take_no_weight_decay():
    training = prepare(recipe({**BASE, "select": "train"}), write=False)
    groups = {g["name"]: g for g in training.optimizer.param_groups}
    head = head_of(training)
    assert {id(p) for p in groups["tcs"]["params"]} == {id(head.lift.bias), id(head.readout.mask)}
    assert groups["tcs"]["weight_decay"] == 0.0
    assert sum(len(g["params"]) for g in groups.values()) == len(list(training.run.student.parameters()))


def test_axes_are_those_of_the_draw():
    heads = [
        head_of(prepare(recipe({**BASE, "k": 2}, data__per_class=3, data__subset_seed=s), write=False)) for s in (0, 1)
    ]
    assert not torch.equal(heads[0].project.axes, heads[1].project.axes)


def test_axes_of_other_images_come_from_another_runs_cache(tmp_path: Path):
    other = prepare(recipe(BASE, data__per_class=3), write=False)
    (cache,) = other.assembly.caches.values()
    save_axes(tmp_path / "other.safetensors", cache.moments)
    training = prepare(recipe({**BASE, "axes": str(tmp_path / "other.safetensors"), "k": 2}), write=False)
    head = head_of(training)
    own = find_axes(cache.moments, "pca", 2)
    torch.testing.assert_close(head.project.axes, own.vectors.float())
    torch.testing.assert_close(head.mean * head.scale, (own.mean * own.scale).float())
    assert training.fit().metrics["test"]


def test_it_works_on_what_is_no_image():
    """Chemical measurements of wines."""
    result = train(Recipe.load(TESTS.parent / "docs" / "recipes" / "wines-tcs.toml"), write=False)
    assert isinstance(result.student.head, nn.Linear)
    assert result.metrics["test"]["accuracy"] > 0.8
