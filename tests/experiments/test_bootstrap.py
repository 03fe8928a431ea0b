"""The bootstrap over seeds and test samples against a slow loop, the predictions that it is of, and where tables have it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FEATURES, recipe

from stillhouse import StillhouseError, train
from stillhouse.cli import main
from stillhouse.experiments.bootstrap import Judged, bootstrap, compare_judged, draw_counts, read_judged
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.report import make_report
from stillhouse.experiments.tables import to_markdown
from stillhouse.training.predictions import check_predictions

FAST: dict[str, Any] = {"run__epochs": 1, "teacher__args": {"width": 4}}


@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 1000))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_the_interval_is_that_of_a_slow_loop(seeds: int, samples: int, number: int):
    differences = np.random.default_rng(number).integers(-1, 2, (seeds, samples)).astype(np.float64)
    means = []
    for of_seeds, of_samples in draw_counts(seeds, samples, 130):
        for row in range(len(of_seeds)):
            chosen = [s for s in range(seeds) for _ in range(of_seeds[row, s])]
            tested = [n for n in range(samples) for _ in range(of_samples[row, n])]
            assert (len(chosen), len(tested)) == (seeds, samples)
            means.append(sum(differences[s, n] for s in chosen for n in tested) / (seeds * samples))
    assert len(means) == 130
    assert bootstrap(differences, 0.9, 130) == pytest.approx((np.quantile(means, 0.05), np.quantile(means, 0.95)))


def test_its_spread_is_that_of_samples_where_seeds_agree():
    right = np.random.default_rng(0).random(400) < 0.5
    low, high = bootstrap(np.tile(right.astype(np.float64), (5, 1)))
    error = np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert low < right.mean() < high


def judged(*right: int, true: tuple[int, ...] = (0, 1, 2, 0)) -> Judged:
    return Judged(np.asarray(true, dtype=np.int32), np.asarray(right, dtype=bool))


def test_runs_of_other_samples_or_without_predictions_have_none():
    a = {0: judged(1, 1, 0, 1), 1: judged(1, 0, 0, 1)}
    b = {0: judged(1, 0, 0, 1), 1: judged(0, 0, 0, 1)}
    assert compare_judged(a, b, [0, 1]) is not None
    assert compare_judged(a, b, [0]) is None, "one seed says nothing of seeds"
    assert compare_judged(a, {0: b[0]}, [0, 1]) is None
    assert compare_judged(a, {**b, 1: judged(0, 0, 0, 1, true=(0, 1, 2, 1))}, [0, 1]) is None


def test_tables_and_reports_have_it_beside_the_paired_interval():
    runs = {
        name: {s: judged(*np.random.default_rng(s + k).integers(0, 2, 4)) for s in range(3)}
        for k, name in enumerate("ab")
    }
    values = {name: {s: float(each.right.mean()) for s, each in of.items()} for name, of in runs.items()}
    groups = [Group(name, values[name], against={"a": "a"}, judged=runs[name]) for name in "ab"]
    found = compare_groups("test/accuracy", groups)
    difference = found.rows[1].differences["a"]
    assert difference is not None
    assert difference.over_samples == compare_judged(runs["b"], runs["a"], [0, 1, 2])
    text = "[{:+.4f}, {:+.4f}]".format(*difference.over_samples)
    assert text in to_markdown(found)
    assert text in make_report(found)
    assert json.loads(json.dumps(found.to_dict()))["groups"][1]["differences"]["a"]["over_samples"] == list(
        difference.over_samples
    )
    without = compare_groups("test/accuracy", [Group(name, values[name], against={"a": "a"}) for name in "ab"])
    assert "and samples" not in to_markdown(without)
    assert "over seeds and samples" not in make_report(without)


def test_a_run_keeps_what_it_says_of_each_test_sample_where_it_is_asked_to(tmp_path: Path):
    made = recipe(run__keep_predictions=True)
    result = train(made, out=tmp_path / "run")
    found = read_judged(tmp_path / "run" / "predictions.npz")
    assert found is not None
    assert found.right.mean() == pytest.approx(result.metrics["test"]["accuracy"])
    assert found.true.tolist() == [0, 1, 2] * 3
    assert made.digest() == recipe().digest(), "it decides no result"
    plain = train(recipe(), out=tmp_path / "plain")
    assert plain.metrics == result.metrics
    assert not (tmp_path / "plain" / "predictions.npz").exists()
    assert read_judged(tmp_path / "plain" / "predictions.npz") is None
    (tmp_path / "plain" / "predictions.npz").write_bytes(b"PK no file of arrays")
    assert read_judged(tmp_path / "plain" / "predictions.npz") is None


def test_an_ablation_of_such_runs_has_the_interval(tmp_path: Path):
    (tmp_path / "r.toml").write_text(recipe(FEATURES, **FAST).to_toml())
    command = ["ablate", str(tmp_path / "r.toml"), "--seeds", "2", "--out", str(tmp_path / "a"), "--quiet"]
    assert main([*command, "--set", "run.keep_predictions=true"]) == 0
    told = json.loads((tmp_path / "a" / "results.json").read_text())
    low, high = told["groups"][1]["differences"]["none"]["over_samples"]
    assert low <= told["groups"][1]["differences"]["none"]["mean"] <= high
    assert "and samples [95%]" in (tmp_path / "a" / "table.md").read_text()


@pytest.mark.parametrize(("logits", "shape"), [(False, ()), (True, (6, 6)), (True, (3,))])
def test_tasks_without_a_class_a_sample_are_refused(logits: bool, shape: tuple[int, ...]):
    task, data = SimpleNamespace(takes_logits=logits), SimpleNamespace(target_shape=shape)
    facts: Any = SimpleNamespace(recipe=recipe(run__keep_predictions=True), task=task, data=data)
    with pytest.raises(StillhouseError, match=r"run.keep_predictions: keeps the predictions of tasks with one class"):
        check_predictions(facts)
    check_predictions(with_recipe(facts, recipe()))


def with_recipe(facts: Any, other: Any) -> Any:
    """The same facts of a run that keeps nothing."""
    return SimpleNamespace(**{**vars(facts), "recipe": other})
