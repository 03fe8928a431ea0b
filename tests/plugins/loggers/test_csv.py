"""The file of a run's numbers: all of them, resumed without a doubled one, and a run that goes on where it cannot be written."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from support import recipe

from stillhouse import Plugin, StillhouseError, StillhouseWarning, hookimpl, plugin, prepare, train
from stillhouse.config.run import RunSpec
from stillhouse.training import loggers
from stillhouse_loggers import CsvFile, packages


@plugin
class Listener(Plugin):
    """Keeps what the two hooks bring."""

    @hookimpl
    def build(self, assembly: Any) -> None:
        SEEN.clear()

    @hookimpl
    def logged(self, step, scalars) -> None:
        SEEN.extend((step.iteration + 1, tag, value) for tag, value in scalars.items())

    @hookimpl
    def evaluated(self, run, split, metrics) -> None:
        SEEN.extend((run.trainer.state.iteration, f"{split}/{name}", value) for name, value in metrics.items())


SEEN: list[tuple[int, str, float]] = []


class Killed(BaseException):
    """What ends a run as a signal does."""


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["tag"], float(row["value"])) for row in csv.DictReader(file)]


def of_the_run(found: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
    """Without times, which no two runs have in common, and without looks, which come when there is time."""
    return [row for row in found if row[1].split("/")[0] in ("loss", "loss_raw", "learning_rate", "val", "test")]


def test_every_number_of_both_hooks_is_in_the_file(tmp_path: Path):
    train(recipe(), plugins=[Listener()], out=tmp_path / "run")
    assert {tag for _, tag, _ in SEEN} >= {"loss/total", "val/accuracy", "test/accuracy"}
    assert sorted(rows(tmp_path / "run")) == sorted(SEEN)
    assert not (tmp_path / "run" / "loggers").exists()


@pytest.mark.parametrize("at", [1, 4, 5, 6])
def test_a_run_that_goes_on_has_no_number_twice_and_misses_none(tmp_path: Path, at: int):
    made = recipe(run__log_every=1, run__epochs=3, checkpoints={"every_steps": 2})
    train(made, out=tmp_path / "whole")

    training = prepare(made, out=tmp_path / "run")

    @training.run.trainer.on(loggers_event(at))
    def stop() -> None:
        training.observers.loggers._hand_over()  # more than the checkpoint has
        training.observers.loggers._open = {}  # a kill closes nothing
        raise Killed

    with pytest.raises(Killed):
        training.fit()
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("99,half a li")
    train(made, out=tmp_path / "run", resume=True)
    found = rows(tmp_path / "run")
    assert of_the_run(found) == of_the_run(rows(tmp_path / "whole"))
    assert len({row[:2] for row in found}) == len(found)


def loggers_event(at: int) -> Any:
    from ignite.engine import Events

    return Events.ITERATION_COMPLETED(once=at)


def test_what_was_measured_at_the_last_step_is_not_measured_twice(tmp_path: Path):
    train(recipe(), out=tmp_path / "run")
    before = rows(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()  # killed before its last word
    train(recipe(), out=tmp_path / "run", resume=True)
    assert rows(tmp_path / "run") == before


def test_a_logger_makes_no_other_run_and_nobody_is_told_where_none_is_wanted(tmp_path: Path, monkeypatch):
    assert recipe().digest() == recipe(run__loggers=[]).digest() == recipe(run__loggers=["csv"]).digest()
    train(recipe(run__loggers=[]), out=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()
    train(recipe(run__loggers=["csv"], run__epochs=2), out=tmp_path / "run", resume=True)
    other = recipe(run__loggers=[{"use": "csv"}], run__epochs=3)
    with pytest.raises(StillhouseError) as refused:
        train(other, out=tmp_path / "run", resume=True)
    assert [fault.what for fault in refused.value.faults] == ["run.epochs was 2 and is 3"]
    monkeypatch.setattr(loggers, "installed", lambda _group: [])
    assert loggers.find_loggers(None) == {}


def test_a_disk_that_is_full_is_told_of_once_and_the_run_goes_on(tmp_path: Path, monkeypatch):
    open_it = CsvFile.open

    def onto_a_full_disk(self, run) -> None:
        open_it(self, run)
        (run.folder / "metrics.csv").unlink()
        (run.folder / "metrics.csv").symlink_to("/dev/full")

    monkeypatch.setattr(CsvFile, "open", onto_a_full_disk)
    with pytest.warns(StillhouseWarning, match="'csv' failed, and the run goes on without: .*No space left") as told:
        result = train(recipe(), out=tmp_path / "run")
    assert len([w for w in told if issubclass(w.category, StillhouseWarning)]) == 1
    assert result.summary["steps_done"] == result.summary["steps"]


def test_a_run_that_is_refused_leaves_nothing_that_stands_in_the_way(tmp_path: Path):
    @plugin
    class Refuses(Plugin):
        @hookimpl
        def backward_completed(self, step) -> None:
            if step.iteration == 1:
                raise StillhouseError("on purpose")

    with pytest.raises(StillhouseError, match="on purpose"):
        train(recipe(run__log_every=1), plugins=[Refuses()], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["cvs"], r"run.loggers\[0\]: no installed logger is called 'cvs' \(did you mean 'csv'"),
        (["csv", "csv"], r"run.loggers\[1\]: 'csv' stands there twice"),
        ([{"file": "x"}], r"run.loggers\[0\]: must name a logger"),
        ([{"use": "csv", "file": "x"}], r"run.loggers\[0\].file: unknown key 'file'"),
    ],
)
def test_a_logger_that_cannot_be_is_refused_with_its_place(chosen, message):
    with pytest.raises(StillhouseError, match=message):
        prepare(recipe(run__loggers=chosen), write=False)


def test_names_that_are_no_list_are_refused():
    with pytest.raises(StillhouseError, match="loggers: must be a list of text or a table, got 'csv'"):
        RunSpec(loggers="csv")


def test_without_the_distribution_a_name_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(loggers, "installed", lambda _group: [])
    with pytest.raises(StillhouseError, match=r"no logger is installed \(pip install stillhouse-loggers\)"):
        loggers.find_loggers(["csv"])


def test_a_service_whose_package_is_not_there_is_refused_with_what_installs_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # as wandb leaves one behind
    monkeypatch.setattr(sys, "path", [""])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(StillhouseError, match=r"wandb is not installed \(pip install 'stillhouse-loggers\[wandb\]'\)"):
        packages.require("wandb")
