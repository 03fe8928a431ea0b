"""The processes that read the data: what is said when the system kills one."""

from __future__ import annotations

import multiprocessing
import signal
import threading

import pytest
from support import recipe

from stillhouse import StillhouseError, train
from stillhouse.data import DataSpec
from stillhouse.data.readers import _say_unless_hung_up, explain_dead_reader

SPEC = DataSpec(name="x", workers=4, prefetch=3, batch_size=64)


def test_a_reader_that_is_killed_ends_the_run_with_what_to_lower():
    before = multiprocessing.active_children()
    made = recipe(data={"name": "support.dying:deadly_data", "args": {"at": 5}, "batch_size": 8, "workers": 2})
    with pytest.raises(StillhouseError) as caught:
        train(made, write=False)
    (fault,) = caught.value.faults
    assert fault.where == "data.workers"
    assert "was ended by a signal (Killed), as the system ends one where memory runs out" in fault.what
    assert "workers = 0 reads in the run's own process" in fault.hint
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [
        child for child in multiprocessing.active_children() if child not in before
    ] == []  # while the error is kept


@pytest.mark.parametrize(
    ("text", "codes", "says"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            [],
            "ended by a signal (Killed), as the system ends",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", [None, -9], "(Killed), as the system ends one"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", [-int(signal.SIGSEGV)], "a signal (Segmentation fault)"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", [0, 3], "ended with exit code 3, as the system ends one"),
        ("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost", [], "has ended, as the"),
    ],
)
def test_torchs_words_become_the_houses(text: str, codes: list[int | None], says: str):
    error = explain_dead_reader(RuntimeError(text), SPEC, codes)
    assert error is not None
    assert says in error.faults[0].what
    assert error.faults[0].hint.startswith("lower workers = 4, prefetch = 3 or batch_size = 64")


def test_other_errors_are_let_alone():
    assert explain_dead_reader(RuntimeError("shapes differ")) is None
    assert explain_dead_reader(ValueError("DataLoader worker (pid 7) is killed by signal: Killed. ")) is None


def test_a_reader_says_nothing_of_a_run_that_has_hung_up(capsys: pytest.CaptureFixture[str]):
    def say(error: Exception) -> None:
        _say_unless_hung_up(type(error), error, None)

    for error in (ConnectionResetError("by peer"), EOFError(), BrokenPipeError()):
        thread = threading.Thread(target=say, args=(error,))
        thread.start()
        thread.join()
    assert capsys.readouterr().err == ""
    say(ConnectionResetError("of its own"))
    assert "ConnectionResetError: of its own" in capsys.readouterr().err
    thread = threading.Thread(target=say, args=(ValueError("wrong"),))
    thread.start()
    thread.join()
    assert "ValueError: wrong" in capsys.readouterr().err
