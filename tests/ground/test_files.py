"""Files: there whole or not at all; JSON of any content is read or refused in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.disks import full_disk

from stillhouse import StillhouseError
from stillhouse.files import append_lines, clear_temporaries, open_file, read_table, replacing, write_json, write_text


def test_a_file_that_cannot_be_written_stays_as_it_was_and_leaves_nothing(tmp_path: Path):
    write_text(tmp_path / "a.txt", "before")
    with full_disk(), pytest.raises(StillhouseError, match=r"a\.txt: cannot be written: File too large"):
        write_text(tmp_path / "a.txt", "after " * 100)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "before")]


def test_lines_that_cannot_be_appended_leave_the_file_as_it_was(tmp_path: Path):
    append_lines(tmp_path / "a", ["one"])
    with full_disk(), pytest.raises(OSError, match="File too large"):
        append_lines(tmp_path / "a", ["two", "three", "four"])
    append_lines(tmp_path / "a", ["five"])
    assert (tmp_path / "a").read_text() == "one\nfive\n"


def test_what_is_interrupted_while_it_is_written_leaves_nothing(tmp_path: Path):
    def interrupted() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_half_written_is_cleared_and_nothing_else(tmp_path: Path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a") as temporary:
        temporary.rename(tmp_path / temporary.name.replace(".tmp-", ".tmp-left-"))
    (tmp_path / ".mine").touch()
    (tmp_path / ".tmp-tried").mkdir()
    clear_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".mine"]


def test_two_writers_of_one_file_have_names_of_their_own(tmp_path: Path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        one.write_text("one")
        two.write_text("two")
        assert one != two
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged, and no JSON"),
        (b"\0" * 50, "is damaged, and no JSON"),
        (b"[" * 100_000, "is damaged, and no JSON: too deeply nested"),
        (b'{"a": "\xff"}', "is damaged, and no JSON: 'utf-8' codec"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is damaged, and no JSON"),
        (b"null", "is not a lock: it must hold a table, got NoneType"),
        (b"[1]", "is not a lock: it must hold a table, got list"),
    ],
    ids=["empty", "zeros", "deep", "latin", "digits", "null", "list"],
)
def test_json_of_any_content_is_refused_in_words(content: bytes, says: str, tmp_path: Path):
    (tmp_path / "lock.json").write_bytes(content)
    with pytest.raises(StillhouseError) as caught:
        read_table(tmp_path / "lock.json", "a lock")
    assert str(caught.value).startswith(f"{tmp_path / 'lock.json'}: {says}")


def test_a_table_is_read_and_what_is_no_file_is_named(tmp_path: Path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_table(tmp_path / "a.json", "a lock") == {"a": [1, None]}
    with pytest.raises(StillhouseError, match=r"b\.json: file not found"):
        read_table(tmp_path / "b.json", "a lock")
    with pytest.raises(StillhouseError, match="cannot be read: Is a directory"):
        read_table(tmp_path, "a lock")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_or_a_device_is_no_file_and_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a pipe or a device, and no file"):
            open_file(path)
    with pytest.raises(StillhouseError, match="cannot be read: it is a pipe or a device"):
        read_table(tmp_path / "pipe", "a run's lock")
    with pytest.raises(IsADirectoryError) as caught:
        open_file(tmp_path)
    assert caught.value.filename is not None
    (tmp_path / "file").write_bytes(b"x")
    with open_file(tmp_path / "file") as file:
        assert file.read() == b"x"
