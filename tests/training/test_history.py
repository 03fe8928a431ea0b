"""The history of epochs in its own file, and the checkpoints that a run can go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import Killed, interrupted, recipe, same_state

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare, train
from stillhouse.models.weights import find_last_checkpoint


def last(run: Path) -> Path:
    found = find_last_checkpoint(run / "checkpoints")
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_does_not_grow_with_the_epochs(tmp_path: Path):
    sizes = []
    for epochs in (2, 12):
        train(recipe(run__epochs=epochs), out=tmp_path / str(epochs))
        sizes.append(last(tmp_path / str(epochs)).stat().st_size)
        assert len((tmp_path / str(epochs) / "history.jsonl").read_text().splitlines()) == epochs
    assert sizes[0] == pytest.approx(sizes[1], abs=100)


def test_epochs_that_were_lost_with_a_killed_process_are_cut_off(tmp_path: Path):
    changes = {"run__epochs": 4, "checkpoints": {"every_steps": 1}}
    whole = train(recipe(**changes), out=tmp_path / "whole")
    interrupted(prepare(recipe(**changes), out=tmp_path / "run"), at=8)
    file = tmp_path / "run" / "history.jsonl"
    file.write_bytes(file.read_bytes() + b'{"accuracy": 1.0}\n{"accur')
    resumed = train(recipe(**changes), out=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    assert file.read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()


def test_a_run_that_was_killed_before_its_first_checkpoint_was_whole_begins_anew(tmp_path: Path):
    whole = train(recipe(), out=tmp_path / "whole")
    interrupted(prepare(recipe(), out=tmp_path / "run"), at=4)
    last(tmp_path / "run").unlink()
    train(recipe(), out=tmp_path / "run", resume=True)
    for name in ("history.jsonl", "checkpoints"):
        assert (tmp_path / "run" / name).exists()
    assert names(tmp_path / "run" / "checkpoints") == names(tmp_path / "whole" / "checkpoints")
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()
    assert train(recipe(), out=tmp_path / "run", resume=True).history == whole.history


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.unlink(), "has 0 epochs, and the checkpoint has seen 1"),
        (lambda p: p.write_text('{"accuracy": 1.0}\n'), "has changed since it was written: its checksum differs"),
        (lambda p: p.write_bytes(b"\xff" * 9 + b"\n"), "has changed since it was written: its checksum differs"),
    ],
    ids=["gone", "changed", "no text"],
)
def test_a_history_that_is_not_the_runs_is_refused(spoil: Any, says: str, tmp_path: Path):
    interrupted(prepare(recipe(), out=tmp_path / "run"), at=4)
    spoil(tmp_path / "run" / "history.jsonl")
    with pytest.raises(StillhouseError) as caught:
        train(recipe(), out=tmp_path / "run", resume=True)
    assert f"{tmp_path / 'run' / 'history.jsonl'}: {says}" in str(caught.value)


def test_a_run_goes_on_from_one_that_was_to_stay_where_the_last_was_deleted(tmp_path: Path):
    changes = {"run__epochs": 4, "checkpoints": {"keep_every": 1}}
    whole = train(recipe(**changes), out=tmp_path / "whole")
    interrupted(prepare(recipe(**changes), out=tmp_path / "run"), at=10)
    folder = tmp_path / "run" / "checkpoints"
    for gone in ("last_9.pt", "epoch_9.pt"):
        (folder / gone).unlink()
    resumed = train(recipe(**changes), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == 6
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    assert resumed.history == whole.history
    assert names(folder) == names(tmp_path / "whole" / "checkpoints")


def test_where_all_was_trained_one_that_was_to_stay_is_the_last_as_well(tmp_path: Path):
    changes = {"checkpoints": {"keep_every": 2}}
    whole = train(recipe(**changes), out=tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "last_6.pt").unlink()
    again = train(recipe(**changes), out=tmp_path / "run", resume=True)
    assert same_state(whole.student.state_dict(), again.student.state_dict())
    assert {"epoch_6.pt", "last_6.pt"} <= set(names(folder))


@pytest.mark.parametrize("ema", [None, {"decay": 0.5}])
def test_a_run_that_was_killed_while_the_test_split_was_measured_tells_of_nothing_twice(ema: Any, tmp_path: Path):
    told: list[tuple[str, int]] = []

    @plugin
    class Telling(Plugin):
        """Notes what is told of, and once is killed by it."""

        @hookimpl
        def evaluated(self, run, split):
            told.append((split, run.trainer.state.iteration))
            if split == "test" and told.count((split, 6)) == 1:
                raise Killed

    made = recipe(ema=ema)
    whole = train(made, write=False)
    with pytest.raises(Killed):
        train(made, plugins=[Telling()], out=tmp_path / "run")
    resumed = train(made, plugins=[Telling()], out=tmp_path / "run", resume=True)
    assert [told.count((split, 6)) for split in ("val", "test")] == [1, 2]
    assert resumed.metrics == whole.metrics
    assert list(resumed.metrics) == list(whole.metrics)
