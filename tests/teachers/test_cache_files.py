"""The files of the teacher's cache: no cut and no flipped bit of any of them is taken for the whole."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from stillhouse import StillhouseError
from stillhouse.teachers.cache.arrays import ArrayWriter, write_small
from stillhouse.teachers.cache.files import TeacherCache, open_cache, read_index, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of 20 samples with outputs and moments."""
    writer = ArrayWriter(tmp_path / "0.npy", (1, 20, 4), np.float16)
    writer.write(np.random.default_rng(0).random((20, 4)))
    arrays = {"output": writer.close(), "ids": write_small(tmp_path / "ids.npy", np.arange(20))}
    arrays |= {"mean": write_small(tmp_path / "mean.npy", np.zeros(4))}
    arrays |= {"scatter": write_small(tmp_path / "scatter.npy", np.eye(4))}
    moments = {"count": 20, "square": 2.0}
    write_index(tmp_path, {"key": {"a": (1, 2)}, "arrays": arrays, "provenance": {}, "moments": moments})
    return tmp_path


def opened(folder: Path) -> TeacherCache:
    return open_cache(folder, read_index(folder), was_there=True)


def result_of(folder: Path) -> TeacherCache | str:
    """The opened cache, or what is said instead."""
    try:
        return opened(folder)
    except StillhouseError as error:
        return str(error)


@pytest.mark.parametrize("name", ["index.json", "0.npy", "ids.npy", "mean.npy", "scatter.npy"])
def test_no_cut_and_no_flipped_bit_goes_unseen(name: str, folder: Path):
    kept = opened(folder)
    path, draw = folder / name, random.Random(0)
    whole = path.read_bytes()
    for number in range(100):
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        flipped = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
        path.write_bytes(flipped if number % 2 else whole[:place])
        found = result_of(folder)
        if isinstance(found, str):
            assert str(folder) in found
            continue
        # What was hit says the same in other characters: '<f8' and '=f8'.
        assert np.array_equal(found.ids, kept.ids)
        assert found.rows("output", 0, 20).equal(kept.rows("output", 0, 20))
        assert found.moments.scatter.equal(kept.moments.scatter)
    path.write_bytes(whole)
    opened(folder)


def test_an_index_that_lacks_an_array_or_names_one_elsewhere_is_refused(folder: Path):
    index = read_index(folder)
    (folder.parent / "outside.npy").write_bytes((folder / "ids.npy").read_bytes())
    for wrong in (
        {**index, "arrays": {}},
        {**index, "moments": None},
        {**index, "arrays": {**index["arrays"], "ids": 3}},
        {**index, "arrays": {**index["arrays"], "ids": {**index["arrays"]["ids"], "file": "../outside.npy"}}},
    ):
        write_index(folder, wrong)
        with pytest.raises(StillhouseError, match=r"index is damaged|cache's file is missing"):
            opened(folder)


@pytest.mark.parametrize("name", ["index.json", "0.npy", "ids.npy"])
def test_a_pipe_or_a_pickle_in_the_place_of_a_file(name: str, folder: Path):
    (folder / name).write_bytes(pickle.dumps(os.getcwd))
    said = result_of(folder)
    assert "is damaged" in said
    assert "unsafely" not in said  # numpy's own advice
    (folder / name).unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / name)
        assert "it is a pipe or a device" in result_of(folder)
