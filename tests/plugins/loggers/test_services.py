"""MLflow and Weights & Biases, the real packages on a disk: every number once, after a kill too; a server that is away."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Events
from support import recipe

from stillhouse import StillhouseError, StillhouseWarning, prepare, train
from stillhouse.training.points import Point
from stillhouse_loggers.mlflow_run import _allowed, _flatten
from stillhouse_loggers.receipt import Receipt
from stillhouse_loggers.wandb_run import wait_for_a_new_name

Numbers = list[tuple[int, str, float]]

PLAIN: dict[str, Any] = {"run__log_every": 1, "checkpoints": {"every_steps": 2}, "watch": {"enabled": False}}
NO_TIMES = ("speed/", "data/", "device/")


class Killed(BaseException):
    """What ends a run as a signal does."""


def killed_and_resumed(made: Any, folder: Path) -> None:
    """A run that is killed after step 5, of which more has been handed over than its checkpoint has, and its second half."""
    training = prepare(made, out=folder)

    @training.run.trainer.on(Events.ITERATION_COMPLETED(once=5))
    def stop() -> None:
        training.observers.loggers._hand_over()
        raise Killed

    with pytest.raises(Killed):
        training.fit()
    train(made, out=folder, resume=True)


def of_the_file(folder: Path) -> Numbers:
    lines = (line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:])
    return sorted((int(step), tag, float(value)) for step, tag, value in lines if not tag.startswith(NO_TIMES))


# MLflow ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_mlflow_has_every_number_once_the_recipe_and_how_the_run_ended(tmp_path: Path, store: str):
    from mlflow import MlflowClient

    made = recipe(**PLAIN, run__loggers=["csv", {"use": "mlflow", "experiment": "tried", "uri": store}])
    killed_and_resumed(made, tmp_path / "run")
    client = MlflowClient(tracking_uri=store)
    [run] = client.search_runs([client.get_experiment_by_name("tried").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["run.epochs"] == "2"
    found = [
        (point.step, tag, point.value)
        for tag in run.data.metrics
        if not tag.startswith(NO_TIMES)
        for point in client.get_metric_history(run.info.run_id, tag)
    ]
    assert sorted(found) == of_the_file(tmp_path / "run")


def test_a_store_that_is_away_is_told_of_once_and_the_others_go_on(tmp_path: Path, store: str):
    (tmp_path / "mlruns").write_text("a file, where a folder should be")
    made = recipe(run__loggers=[{"use": "mlflow", "uri": store}, "csv"])
    with pytest.warns(StillhouseWarning, match="the logger 'mlflow' failed, and the run goes on without") as told:
        train(made, out=tmp_path / "run")
    assert len([w for w in told if issubclass(w.category, StillhouseWarning)]) == 1
    assert "test/accuracy" in (tmp_path / "run" / "metrics.csv").read_text()


def test_tags_have_the_characters_that_mlflow_takes():
    assert _allowed("cka/features:a->b é") == "cka/features_a-_b _"
    tables = {"run": {"seed": 1}, "plugins": [{"use": "logits"}], "taps": []}
    assert dict(_flatten(tables)) == {"run.seed": 1, "plugins.0.use": "logits", "taps": []}


def test_a_receipt_gives_nothing_twice_and_a_damaged_one_is_refused(tmp_path: Path):
    run: Any = SimpleNamespace(folder=tmp_path)
    receipt = Receipt.read(run, "service")
    receipt.id = "7"
    receipt.add([Point(3, {"a": 1.0}, 0.0)])
    again = Receipt.read(run, "service")
    assert again.id == "7"
    new = again.select_new([Point(3, {"a": 1.0}, 0.0), Point(3, {"a": 1.0, "b": 2.0}, 0.0), Point(4, {"a": 1.0}, 0.0)])
    assert [(p.step, dict(p.scalars)) for p in new] == [(3, {"b": 2.0}), (4, {"a": 1.0})]
    (tmp_path / "loggers" / "service.json").write_text('{"id": 7, "steps": {}}')
    with pytest.raises(StillhouseError, match="must be text, got 7"):
        Receipt.read(run, "service")


# Weights & Biases -----------------------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[bytes]:
    """The records of a file of wandb: a log as LevelDB has it, in blocks of 32 KB, after seven bytes of its own."""
    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # no room for a record's head
            at += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield whole
            whole = b""


def history(folder: Path) -> Iterator[dict[str, Any]]:
    """What offline runs of wandb have in their files, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("loggers/wandb/offline-run-*/*.wandb")):
        for data in records(path):
            items = Record.FromString(data).history.item
            if items:
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_a_run_that_goes_on_within_a_second_waits_for_a_name_of_its_own(tmp_path: Path):
    def name(seconds: float) -> Path:
        stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(seconds))
        return tmp_path / "wandb" / f"offline-run-{stamp}-abc"

    now = time.time()
    taken = [name(now), name(now + 1)]
    for folder in taken:
        folder.mkdir(parents=True, exist_ok=True)
    wait_for_a_new_name(tmp_path, None)
    wait_for_a_new_name(tmp_path, "other")
    wait_for_a_new_name(tmp_path, "abc")
    assert name(time.time()) not in taken


def test_wandb_offline_has_every_number_once(tmp_path: Path):
    pytest.importorskip("wandb")
    made = recipe(**PLAIN, run__loggers=["csv", {"use": "wandb", "project": "tried", "mode": "offline"}])
    killed_and_resumed(made, tmp_path / "run")
    found = [
        (int(row["_step"]), tag, float(value))
        for row in history(tmp_path / "run")
        for tag, value in row.items()
        if not tag.startswith(("_", *NO_TIMES))
    ]
    assert sorted(found) == of_the_file(tmp_path / "run")
