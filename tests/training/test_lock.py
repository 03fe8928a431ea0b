"""The lock: what it records, and what a run that goes on has to find as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, TinyNet, interrupted, recipe

from stillhouse import StillhouseError, StillhouseWarning, prepare, train
from stillhouse.teachers.identity import _PIECE, _choose_pieces, _hash_file

NET = {"model": "support:TinyNet", "args": {"width": 4}}


def lock_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "lock.json").read_text(encoding="utf-8"))
    return found


def taught(folder: Path, **changes: Any) -> Any:
    """A recipe whose teacher is a file, which is written where it is not there."""
    if not (folder / "teacher.pt").exists():
        torch.save(TinyNet(width=4).state_dict(), folder / "teacher.pt")
    spec = {**NET, "checkpoint": str(folder / "teacher.pt"), "normalize": "same"}
    return recipe(FEATURES, teacher=spec, checkpoints={"every_steps": 1}, **changes)


def test_it_records_weights_code_threads_and_outputs(tmp_path: Path):
    train(taught(tmp_path, run__epochs=1), out=tmp_path / "run")
    lock = lock_of(tmp_path / "run")
    assert set(lock["sources"]) == {"teacher"}
    assert set(lock["code"]) == {
        "plugins.features features",
        "data support:tiny_data",
        "student support:TinyNet",
        "teacher support:TinyNet",
    }
    assert lock["code"]["student support:TinyNet"] == lock["code"]["data support:tiny_data"]  # one package
    assert lock["threads"] == torch.get_num_threads()
    assert lock["outputs"] == {"count": 3, "names": ["0", "1", "2"]}


def test_what_recipes_give_and_python_hands_over_is_recorded_by_content(tmp_path: Path):
    own = recipe(run__name="t", teacher=None, student=NET, run__epochs=1)
    train(recipe(FEATURES, teacher={"recipe": own.to_dict()}, run__epochs=1), out=tmp_path / "a")
    content, _, which = lock_of(tmp_path / "a")["sources"]["teacher"].partition("-")
    assert (len(content), which) == (16, "best")
    given = TinyNet(width=4)
    for name in ("b", "c"):
        train(recipe(FEATURES, teacher=None, run__epochs=1), teacher=given, student=TinyNet(), out=tmp_path / name)
    b, c = (lock_of(tmp_path / name)["sources"] for name in ("b", "c"))
    assert b["teacher"] == c["teacher"]
    assert b["student"] != c["student"]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The folder of a run that was killed, beside its teacher."""
    interrupted(prepare(taught(tmp_path), out=tmp_path / "run"), at=4)
    return tmp_path


def change(run: Path, **keys: Any) -> None:
    (run / "lock.json").write_text(json.dumps({**lock_of(run), **keys}), encoding="utf-8")


def test_a_run_whose_teacher_was_replaced_does_not_go_on(cut: Path):
    torch.manual_seed(1)  # another teacher, wherever the generator stands
    torch.save(TinyNet(width=4).state_dict(), cut / "teacher.pt")
    with pytest.raises(StillhouseError, match=r"lock.json: the weights of teacher have changed since the run began"):
        train(taught(cut), out=cut / "run", resume=True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"code": {"plugins.features features": "0"}}, "the code of plugins.features, features has changed"),
        ({"threads": 64}, "the number of threads was 64 and is 1"),
        ({"python": "2.7"}, "Python was 2.7 and is 3"),
    ],
)
def test_a_run_goes_on_with_what_it_tells_of(cut: Path, keys: dict[str, Any], said: str):
    change(cut / "run", **keys)
    with pytest.warns(StillhouseWarning, match=said):
        train(taught(cut), out=cut / "run", resume=True)


def test_a_run_goes_on_under_another_number_of_threads_that_is_asked_for(cut: Path):
    try:
        with pytest.warns(StillhouseWarning, match="the number of threads was 1 and is 2"):
            train(taught(cut, run__threads=2), out=cut / "run", resume=True)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("key", ["code", "sources", "threads", "outputs"])
def test_the_lock_of_an_older_version_is_enough(cut: Path, key: str):
    known = lock_of(cut / "run")
    del known[key]
    (cut / "run" / "lock.json").write_text(json.dumps(known), encoding="utf-8")
    train(taught(cut), out=cut / "run", resume=True)


def test_a_student_from_python_may_be_made_anew_to_go_on(tmp_path: Path):
    teacher = TinyNet(width=4)
    made = recipe(FEATURES, teacher=None, checkpoints={"every_steps": 1})
    interrupted(prepare(made, student=TinyNet(), teacher=teacher, out=tmp_path / "run"), at=4)
    train(made, student=TinyNet(), teacher=teacher, out=tmp_path / "run", resume=True)


def test_files_are_known_by_content_and_large_ones_by_pieces_from_end_to_end(tmp_path: Path):
    for name, content in (("a", b"1" * 10), ("b", b"1" * 10), ("c", b"1" * 9 + b"2"), ("d", b"")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (_hash_file(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    pieces = list(_choose_pieces(5 << 30))
    assert (pieces[0], pieces[-1]) == (0, (5 << 30) - _PIECE)
    with pytest.raises(StillhouseError, match="gone: cannot be read"):
        _hash_file(tmp_path / "gone")
