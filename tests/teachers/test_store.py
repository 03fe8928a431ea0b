"""Getting or making under a lock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stillhouse import StillhouseError
from stillhouse.teachers.store import get_or_make, naming_disk_errors


def test_of_two_that_want_the_same_one_makes_it_and_the_other_waits_for_it(tmp_path: Path):
    path = tmp_path / "new" / "thing"
    made: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def find() -> str | None:
        return path.read_text() if path.exists() else None

    def make() -> str:
        begun.set()
        assert may_end.wait(10)
        path.write_text("made")
        made.append("once")
        return "made"

    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(get_or_make(path, find, make))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert (got, made) == (["made", "made"], ["once"])


def test_what_was_not_made_leaves_the_lock_free(tmp_path: Path):
    def fail() -> str:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        get_or_make(tmp_path / "thing", lambda: None, fail)
    assert get_or_make(tmp_path / "thing", lambda: None, lambda: "made") == "made"


def test_errors_of_the_system_name_the_path_and_what_is_left(tmp_path: Path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "thing"
    with (
        pytest.raises(StillhouseError, match=r"file/thing: the thing cannot be kept: .*; a half is left") as caught,
        naming_disk_errors(path, "the thing", "a half is left"),
    ):
        get_or_make(path, lambda: None, lambda: "made")
    assert isinstance(caught.value.__cause__, OSError)
