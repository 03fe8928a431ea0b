"""Signals: SIGTERM and SIGHUP save a checkpoint and say how to go on; nothing prints a reader's traceback."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import TESTS, recipe, same_state

from stillhouse import train
from stillhouse.cli import main
from stillhouse.distributed import signals
from stillhouse.distributed.signals import Terminated, raising
from stillhouse.models.weights import find_last_checkpoint, read_checkpoint

USE = {"use": "support.signalling:Signalling"}
CHANGES: dict[str, Any] = {"run__epochs": 3}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that trains a run which sends itself signals."""
    monkeypatch.chdir(TESTS)
    (tmp_path / "r.toml").write_text(recipe(USE, **CHANGES).to_toml())
    return ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"), "--quiet"]


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    # What started the tests in the background, or with nohup, may have had signals ignored, here and in what we start.
    ignored = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before

    signals._heard_at = -math.inf

    def nobody_is_listening() -> None:
        with raising():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated):
        nobody_is_listening()
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("number", "when", "step"),
    [
        (signal.SIGTERM, "step", 5),
        (signal.SIGHUP, "step", 5),
        (signal.SIGTERM, "validation", 6),
        (signal.SIGHUP, "test", 9),
    ],
)
def test_a_checkpoint_is_saved_and_the_run_goes_on_as_if_nothing_had_been(
    number: signal.Signals,
    when: str,
    step: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    whole = train(recipe(USE, **CHANGES), write=False)
    monkeypatch.setenv("SIGNALS", f"{int(number)} {when} 1")
    assert main(words) == 128 + number
    told = capsys.readouterr().err.splitlines()
    on = f"go on with: stillhouse {' '.join(words)} --resume"
    kept = f"ended by {number.name}: step {step} of 9 is done, and its checkpoint written; {on}"
    # Once all is trained there is nothing to be put off.
    assert told == [kept if when != "test" else f"ended by {number.name}; {on}"]
    last = find_last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert last.name == f"last_{step}.pt"
    assert not (tmp_path / "run" / "summary.json").exists()
    assert list((tmp_path / "run").rglob(".*")) == []
    monkeypatch.delenv("SIGNALS")
    assert main([*words, "--resume"]) == 0
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last_9.pt", "")["model"]
    assert same_state({k.removeprefix("student."): v for k, v in state.items()}, whole.student.state_dict())


@pytest.mark.parametrize(("when", "times"), [("before", 1), ("step", 2)])
def test_a_signal_before_training_and_a_second_one_are_obeyed_at_once(
    when: str,
    times: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(signals, "_SAME", -1.0)
    monkeypatch.setenv("SIGNALS", f"15 {when} {times}")
    assert main(words) == 143
    assert capsys.readouterr().err.startswith("ended by SIGTERM; go on with: stillhouse train ")
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") == (
        None if when == "before" else tmp_path / "run" / "checkpoints" / "last_3.pt"
    )
    assert list(tmp_path.rglob(".*")) == []
    monkeypatch.delenv("SIGNALS")
    assert main([*words, "--resume"]) == 0


def test_a_signal_to_a_group_and_the_parents_own_after_it_are_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SIGNALS", "15 step 3")
    assert main(words) == 143
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "last_5.pt"


def test_a_checkpoint_that_cannot_be_written_does_not_keep_the_process(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real: Callable[..., None] = sys.modules["stillhouse.training.checkpoint_writer"].write_checkpoint  # type: ignore[attr-defined]

    def write(path: Path, content: Any) -> None:
        if path.name == "last_5.pt":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr("stillhouse.training.checkpoint_writer.write_checkpoint", write)
    monkeypatch.setenv("SIGNALS", "15 step 1")
    assert main(words) == 143
    told = capsys.readouterr().err
    assert "ended by SIGTERM: no checkpoint of this step was written, since" in told
    assert "No space left on device (last_3.pt is still there; make room and use --resume)" in told


def test_one_that_is_ignored_stays_ignored(words: list[str], monkeypatch: pytest.MonkeyPatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        monkeypatch.setenv("SIGNALS", "1 step 1")
        assert main(words) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_prints_one_line_and_no_traceback_of_a_reader(
    number: signal.Signals, words: list[str], tmp_path: Path
):
    """As the terminal sends Ctrl-C, and a scheduler SIGTERM, to the processes that read the data as well."""
    slow = [
        "--set",
        "run.epochs=1000",
        "--set",
        "data.workers=2",
        "--set",
        'data.transforms=[{use="RandomHorizontalFlip"}]',
        "--set",
        "run.figures=true",  # the signal comes while the first are drawn: all readers have begun, and leave signals alone
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "stillhouse.cli", *words, *slow],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("last_*.pt")):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143), told
    (line,) = told.splitlines()
    assert line.startswith("interrupted; go on with: " if number == signal.SIGINT else "ended by SIGTERM: step ")
    assert line.endswith(" --resume")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left of the group


@pytest.mark.parametrize(("raised", "in_order"), [(Terminated(signal.SIGTERM), True), (KeyboardInterrupt(), False)])
def test_processes_that_a_signal_stops_wait_for_one_another(
    raised: BaseException, in_order: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One that tore its connections down while another still used them would abort that one."""
    left: list[bool] = []
    monkeypatch.setattr("stillhouse.distributed.processes.leave", lambda *, done=False: left.append(done))

    def stop(_parsed: Any) -> int:
        raise raised

    monkeypatch.setattr("stillhouse.cli._run", stop)
    assert main(["plugins"]) == (143 if in_order else 130)
    assert left == [in_order]
    assert "TERM" in capsys.readouterr().err or not in_order
