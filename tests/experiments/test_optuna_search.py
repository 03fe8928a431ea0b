"""The search with Optuna: a trial's run reports every epoch, ends where Optuna says so, and is left to go on from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from support import FEATURES, recipe

from stillhouse import prepare
from stillhouse.training.folder import RunFolder

optuna: Any = pytest.importorskip("optuna")
SCRIPT = Path(__file__).parents[2] / "docs" / "optuna_search.py"
SGD = {"name": "sgd", "lr": 5e-2}
TINY = recipe(FEATURES, teacher__args={"width": 4}, optimizer=SGD, run__epochs=3)


@pytest.fixture(scope="module")
def search() -> Any:
    spec = importlib.util.spec_from_file_location("optuna_search", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_trial_that_is_behind_ends_after_its_epoch_and_its_run_can_go_on(search: Any, tmp_path: Path):
    class SecondTrial(optuna.pruners.BasePruner):
        """Ends the second trial after its second epoch."""

        def prune(self, study: Any, trial: Any) -> bool:
            return (trial.number, trial.last_step) == (1, 2)

    study = optuna.create_study(pruner=SecondTrial(), direction="maximize")
    value = search.measure(study.ask(), TINY, 2, tmp_path)
    summaries = [json.loads((tmp_path / f"trial-0/seed-{seed}/summary.json").read_text()) for seed in (3, 4)]
    scores = [epoch["accuracy"] for summary in summaries for epoch in summary["history"]]
    assert study.trials[0].intermediate_values == dict(enumerate(scores, 1))
    assert value == pytest.approx((scores[2] + scores[5]) / 2)
    assert not any("test" in summary["metrics"] for summary in summaries)

    with pytest.raises(optuna.TrialPruned):
        search.measure(study.ask(), TINY, 2, tmp_path)
    assert study.trials[1].intermediate_values == dict(enumerate(scores[:2], 1))
    left = tmp_path / "trial-1" / "seed-3"
    assert not (tmp_path / "trial-1" / "seed-4").exists()
    assert RunFolder(left).read_summary() is None
    whole = prepare(attrs.evolve(TINY, run=attrs.evolve(TINY.run, test=False)), out=left, resume=True).fit()
    assert whole.summary["resumed_at_step"] > 0
    assert whole.history == summaries[0]["history"]


def test_the_arms_of_an_ablation_are_a_trial_each_and_asked_again_they_are_only_told(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "r.toml"
    file.write_text(TINY.to_toml())
    asked = [str(file), str(tmp_path / "out"), "--arms", "--seeds", "1"]
    assert search.main(asked) == 0
    told = capsys.readouterr().out
    assert {name for name in ("'none'", "'full'") if name in told} == {"'none'", "'full'"}
    assert len(told.splitlines()) == 2
    assert search.main(asked) == 0
    assert capsys.readouterr().out == told
    assert len(list((tmp_path / "out").glob("trial-*"))) == 2


def test_values_lie_in_their_ranges_and_what_diverges_is_a_failed_trial(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "r.toml"
    file.write_text(TINY.to_toml())
    asked = [str(file), str(tmp_path / "out"), "plugins.features.weight=1e37..1e38", "--trials", "2", "--seeds", "1"]
    assert search.main(asked) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["failed", "failed"]
