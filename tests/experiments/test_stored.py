"""Lock, summary and plan of any content are named with file and key, and never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import recipe

from stillhouse import StillhouseError, StillhouseWarning, train
from stillhouse.config.stored import read_lock, read_plan_tables, read_summary
from stillhouse.experiments import compare
from stillhouse.experiments.ablation import make_plan

CONTENTS = [b"", b"null", b"[]", b"3", b'"x"', b"{}", b"[" * 100_000, b'{"a":"\xff"}', b"\0" * 50, b"9" * 5000]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and an ablation's plan beside it."""
    folder = tmp_path_factory.mktemp("stored")
    train(recipe(run__epochs=1), out=folder / "run")
    plan, _ = make_plan(recipe({"use": "logits"}), seeds=1, leave_one_out=True, out=folder / "plan")
    plan.write()
    return folder


READERS: dict[str, Any] = {
    "run/lock.json": read_lock,
    "run/summary.json": read_summary,
    "plan/ablation.json": read_plan_tables,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read(name: str, finished: Path):
    assert READERS[name](finished / name) == json.loads((finished / name).read_text())


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_any_content_is_read_or_refused(name: str, content: bytes, tmp_path: Path):
    file = tmp_path / Path(name).name
    file.write_bytes(content)
    with pytest.raises(StillhouseError) as caught:
        READERS[name](file)
    assert all(str(file) in fault.where for fault in caught.value.faults)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [3], {"x": []}, [{}]], ids=repr)
def test_a_key_of_another_kind_is_named(name: str, value: Any, finished: Path, tmp_path: Path):
    file, tables = tmp_path / "file.json", json.loads((finished / name).read_text())
    for key in tables:
        file.write_text(json.dumps({**tables, key: value}))
        try:
            READERS[name](file)
        except StillhouseError as error:
            assert all(f"{key}" in fault.where for fault in error.faults)  # noqa: PT017 - some values are right


@pytest.mark.parametrize("best", [{"epoch": 1}, {"val/accuracy": 0.5}, {"epoch": 1, "val/accuracy": None}])
def test_a_best_epoch_has_its_score(best: dict[str, Any], finished: Path, tmp_path: Path):
    tables = json.loads((finished / "run/summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**tables, "best": best}))
    with pytest.raises(StillhouseError, match="best: must have an epoch and its score"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("folder", ["/etc", "../..", "a/../../b"])
def test_an_arm_does_not_leave_its_ablations_folder(folder: str, finished: Path, tmp_path: Path):
    tables = json.loads((finished / "plan/ablation.json").read_text())
    tables["arms"][0]["folder"] = folder
    (tmp_path / "ablation.json").write_text(json.dumps(tables))
    with pytest.raises(StillhouseError, match=r"arms\[0\].folder: must lie in the ablation's folder"):
        read_plan_tables(tmp_path / "ablation.json")


def test_one_bad_folder_does_not_end_a_comparison(finished: Path, tmp_path: Path):
    for name in ("good", "bad", "worse"):
        shutil.copytree(finished / "run", tmp_path / name)
    (tmp_path / "bad" / "summary.json").write_text("[3]")
    (tmp_path / "worse" / "recipe.toml").write_text("x")
    with pytest.warns(
        StillhouseWarning, match=r"left out: .*bad/summary.json.*; .*worse/recipe.toml: is not valid TOML"
    ):
        assert len(compare([tmp_path]).rows) == 1
    with pytest.raises(StillhouseError, match=r"bad/summary.json.*a run's summary"):
        compare([tmp_path / "good", tmp_path / "bad"])


def test_seeds_without_end(tmp_path: Path):
    with pytest.raises(StillhouseError, match=r"--seeds: must be at most 10,000, got 999999"):
        make_plan(recipe(), seeds=999_999, out=tmp_path / "plan")


def test_a_disk_is_no_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stillhouse.experiments.run_groups._MOST_FOLDERS", 5)
    for number in range(6):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(StillhouseError, match="has more than 5 folders below it"):
        compare([tmp_path])
