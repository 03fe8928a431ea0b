"""The watcher in a run: what it logs, when it looks, that it changes nothing, and that it can be switched off."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, FIVE, recipe, same_state
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stillhouse import Plugin, Recipe, StillhouseError, Weight, hookimpl, plugin, prepare, train
from stillhouse.config.run_options import WatchSpec
from stillhouse.contract.step import Step
from stillhouse.training import watching
from stillhouse_logits import Logits
from stillhouse_watcher import Pace
from stillhouse_watcher.rules import Rules

TINY: dict[str, Any] = {"data__args": {"train": 64}}


@plugin
class Listener(Plugin):
    """Keeps every scalar."""

    @hookimpl
    def build(self, assembly) -> nn.Module:
        made = nn.Module()
        made.seen = {}
        return made

    @hookimpl
    def logged(self, run, step, scalars) -> None:
        run.module(self).seen[step.iteration + 1] = dict(scalars)


@plugin
class Outsider(Plugin):
    """Somebody else's: a module with a matrix, two terms, and no word about watching."""

    weight: Weight = 0.5

    @hookimpl
    def build(self, assembly) -> nn.Module:
        return nn.Linear(3, 3, bias=False)

    @hookimpl
    def losses(self, step: Step) -> dict[str, Tensor]:
        mapped = step.module(self)(step.student.output)
        return {"near": mapped.square().mean(), "far": (mapped - 1).square().mean()}


def run_of(*plugins: Plugin, **changes: Any) -> tuple[Any, dict[int, dict[str, float]]]:
    training = prepare(recipe(**{**TINY, **changes}), plugins=[*plugins, Listener()], write=False)
    result = training.fit()
    return result, training.run.module(training.run.plugins[-1]).seen


def test_an_outside_plugin_is_watched_without_doing_anything():
    result, seen = run_of(Outsider())
    looked = {step: scalars for step, scalars in seen.items() if "gradient_norm/task" in scalars}
    assert looked
    (first, *_) = looked.values()
    for term in ("outsider/near", "outsider/far"):
        assert first[f"gradient_norm/{term}"] > 0.0
        assert -1.0 <= first[f"gradient_cosine/{term}"] <= 1.0
        assert 0.0 < first[f"loss_share_percent/{term}"] < 100.0
    assert sum(v for tag, v in first.items() if tag.startswith("loss_share_percent/")) == pytest.approx(100.0)
    assert first["singular_largest/outsider/weight"] >= first["singular_least/outsider/weight"]
    assert first["cost_ms/outsider"] >= first["cost_hook_ms/outsider.losses"] > 0.0
    assert first["memory_mb/outsider"] == pytest.approx(2 * 9 * 4 / 1e6)
    assert {"update_to_weight/stem", "train/accuracy", "data/wait_percent", "device/memory_mb"} <= set(first)
    costs = result.summary["costs"]
    assert costs["looks"] == len(looked)
    own = costs["plugins"]["outsider"]
    assert own["parameters"] == 9
    assert own["ms"] == pytest.approx(own["hooks_ms"]["losses"] + own["backward_ms"], rel=0.01)


@pytest.mark.parametrize("plugins", [[], list(FIVE.values())], ids=["alone", "five"])
def test_a_watched_run_ends_with_the_same_bits(plugins):
    ends = []
    for enabled in (False, True):
        training = prepare(
            recipe(*plugins, **TINY, watch={"enabled": enabled, "every": 1}, run__log_every=1), write=False
        )
        ends.append((training.fit(), training.run.composition.state_dict()))
    (off, before), (on, after) = ends
    assert on.summary["costs"]["looks"] >= 10
    assert same_state(before, after)
    assert (on.metrics, on.history) == (off.metrics, off.history)
    assert "costs" not in off.summary


class Recomputed(nn.Module):
    """A student that computes its BatchNorm and dropout anew in the backward pass."""

    def __init__(self, num_classes: int = 3, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Conv2d(1, 4, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_student_that_recomputes_its_layers_is_not_moved_either(reentrant):
    ends = []
    for enabled in (False, True):
        torch.manual_seed(0)
        made = recipe({"use": "logits"}, **TINY, watch={"enabled": enabled, "every": 1}, run__log_every=1)
        training = prepare(made, student=Recomputed(reentrant=reentrant), write=False)
        ends.append((training.fit(), training.run.composition.state_dict()))
    assert same_state(ends[0][1], ends[1][1])
    costs = ends[1][0].summary["costs"]
    assert ("gradients" in costs) is reentrant
    assert not reentrant or "use_reentrant" in costs["gradients"]


def test_one_key_switches_it_off_and_a_run_without_the_distribution_is_fine(monkeypatch):
    training = prepare(recipe(watch={"enabled": False}), write=False)
    assert training.observers.watcher is None
    training.close()
    monkeypatch.setattr(watching, "installed", lambda _group: [])
    training = prepare(recipe(), write=False)
    assert training.observers.watcher is None
    assert "costs" not in training.fit().summary


def test_gradients_alone_can_be_left_out():
    _, seen = run_of(Outsider(), watch={"gradients": False})
    tags = {tag for scalars in seen.values() for tag in scalars}
    assert "cost_ms/outsider" in tags
    assert not any(tag.startswith("gradient_") for tag in tags)


def test_the_watcher_makes_no_other_run():
    assert recipe().digest() == recipe(watch={"enabled": False, "every": 3}).digest()


@pytest.mark.parametrize(
    ("table", "key"), [({"budget": 0.0}, "budget"), ({"budget": 1.5}, "budget"), ({"every": -1}, "every")]
)
def test_a_budget_or_spacing_that_cannot_be_is_refused(table, key):
    with pytest.raises(StillhouseError, match=f"watch.{key}"):
        recipe(watch=table)


def test_a_batch_that_goes_through_in_parts_is_looked_at_once():
    _, seen = run_of(Outsider(), run__accumulate=2)
    looked = [scalars for scalars in seen.values() if "gradient_norm/task" in scalars]
    assert looked
    assert not any(tag.startswith("cost_ms") for scalars in looked for tag in scalars)


def test_the_teachers_own_metrics_are_told_once_and_without_a_second_pass():
    told: list[tuple[str, int]] = []

    @plugin
    class Hears(Plugin):
        @hookimpl
        def evaluated(self, run, split, metrics) -> None:
            told.append((split, run.trainer.state.epoch))

    training = prepare(recipe(), plugins=[Logits(), Hears()], write=False)
    teacher = training.run.teacher
    training.fit()
    assert told.count(("val_teacher", 1)) == 1
    assert [split for split, _ in told] == ["val", "val_teacher", "val", "test"]
    right = [(teacher(b.input).argmax(1) == b.target).float() for b in training.data.evaluation("val")]
    assert training.run.metrics["val_teacher"]["accuracy"] == pytest.approx(torch.cat(right).mean().item())


def make_pace(**spec: Any) -> Pace:
    return Pace(WatchSpec(**spec), log_every=50, steps_per_epoch=100, total=10_000, done=0, now=0.0)


def drive(pace: Pace, seconds_a_step: float, seconds_a_look: float, total: int = 10_000) -> list[int]:
    looked, step = [], pace.choose(0, 0.0)
    for done in range(50, total + 1, 50):
        if step == done:
            looked.append(done)
            pace.add(done, seconds_a_look, done * seconds_a_step)
        step = pace.choose(done, done * seconds_a_step) if done < total else None
    return looked


def test_looks_keep_to_their_share_of_the_time_whatever_one_takes():
    for look in (0.002, 0.01, 0.05):
        looked = drive(make_pace(), 0.002, look)
        assert look * len(looked) <= WatchSpec().budget * 20 + 5 * look
        assert len(looked) >= 2
    assert len(drive(make_pace(), 0.002, 0.002)) > 40


def test_the_first_and_the_last_logged_step_and_the_quarters_are_looked_at():
    assert drive(make_pace(), 0.002, 0.02) == [50, 2500, 5000, 7500, 10_000]


def test_a_run_that_is_short_beside_its_looks_has_two():
    assert drive(make_pace(), 0.002, 0.09) == [50, 10_000]


def test_a_spacing_is_kept_at_the_next_logged_step():
    assert drive(make_pace(every=120), 0.002, 10.0)[:4] == [50, 200, 350, 500]


def test_alarms_and_costs_are_in_the_summary_file(tmp_path: Path):
    train(recipe({**FEATURES}, {"use": "projector"}), out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["alarms"] == []
    assert set(summary["costs"]["plugins"]) == {"features", "projector"}
    assert Recipe.load(tmp_path / "run" / "recipe.toml").watch == WatchSpec()


def test_what_judging_a_looks_figures_takes_is_the_looks_own(monkeypatch: pytest.MonkeyPatch):
    """Else short steps pay for reading and writing beyond the budget."""
    spent: list[float] = []
    add, look_at = Pace.add, Rules.look_at
    monkeypatch.setattr(Pace, "add", lambda self, step, s, now: (spent.append(s), add(self, step, s, now))[1])
    monkeypatch.setattr(Rules, "look_at", lambda self, *told: (time.sleep(0.3), look_at(self, *told))[1])
    train(recipe(*FIVE.values()), write=False)
    assert spent
    assert min(spent) >= 0.3
