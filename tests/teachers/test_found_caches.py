"""A cache is found again by who asks for the same; another teacher's, transform's or data set's is not, a damaged one never."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from support import TinyNet, recipe
from support.teacher_caches import SPEC, cache_of, features_root, run_of

from stillhouse import Assembly, Plugin, StillhouseError, StillhouseWarning, hookimpl, plugin, prepare
from stillhouse.teachers.cache import CacheSpec, TeacherCache, teacher_cache
from stillhouse.teachers.cache.files import read_index, write_index
from stillhouse.teachers.cache.key import differences


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of this test's own."""
    return features_root(monkeypatch, tmp_path)


# Found again, or not


def test_the_same_is_found_and_anything_else_is_another(root: Path):
    def folder(spec: CacheSpec = SPEC, **changes: Any) -> str:
        _, cache = run_of(spec, **changes)
        assert cache.folder is not None
        assert (cache.folder.name in known) == cache.was_there
        known.add(cache.folder.name)
        return cache.folder.name

    known: set[str] = set()
    first = folder()
    # None of these changes what the teacher is shown or gives.
    same = [
        {"data__batch_size": 4},
        {"run__epochs": 5},
        {"optimizer": {"lr": 1.0}},
        {"student": {"model": "support:TinyNet"}},
    ]
    same += [{"data__transforms": [{"use": "RandomHorizontalFlip"}]}, {"data__workers": 2}]
    for changes in same:
        assert folder(**changes) == first, changes
    others = [
        folder(run__seed=4),  # a random teacher of another seed: other weights
        folder(teacher={"model": "support:TinyNet", "args": {"width": 6, "dropout": 0.2}, "random": True}),
        folder(data__normalize="data"),
        folder(data__per_class=3),
        folder(data={"name": "support:tiny_data", "args": {"train": 27}, "batch_size": 8, "normalize": "none"}),
        folder(attrs.evolve(SPEC, taps=("stem",))),
        folder(attrs.evolve(SPEC, pool="none", moments=False)),
        folder(attrs.evolve(SPEC, precision="bfloat16")),
        folder(attrs.evolve(SPEC, store="float32")),
        folder(attrs.evolve(SPEC, outputs=False)),
        folder(attrs.evolve(SPEC, views=1), data__transforms=[{"use": "RandomHorizontalFlip"}]),
    ]
    assert len({first, *others}) == len(others) + 1


def test_a_buffer_of_the_teacher_counts(root: Path, tmp_path: Path):
    teachers = [TinyNet(width=6), TinyNet(width=6)]
    teachers[1].load_state_dict(teachers[0].state_dict())
    teachers[1].norm.running_mean += 1e-3
    folders = set()
    for teacher in teachers:
        cache: list[TeacherCache] = []

        @plugin
        class Reader(Plugin):
            """Reads the teacher."""

            @hookimpl
            def adapt(self, assembly: Assembly) -> None:
                cache.append(teacher_cache(assembly, SPEC))  # noqa: B023 - called at once

        prepare(recipe(), plugins=[Reader()], teacher=teacher, write=False)
        folders.add(cache[0].folder)
    assert len(folders) == 2


class Attentive(TinyNet):
    """The same weights and the same ``repr``, whatever the number of heads or the function."""

    def __init__(self, heads: int, act: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__(width=6)
        self.heads, self.act = heads, act


def test_what_a_teacher_computes_with_counts_though_neither_its_weights_nor_its_repr_show_it(root: Path):
    spec = attrs.evolve(SPEC, outputs=False)
    folders = []
    for heads, act in ((2, torch.relu), (2, torch.relu), (4, torch.relu), (2, torch.tanh)):
        torch.manual_seed(0)
        cache = cache_of(Attentive(heads, act), spec)
        folders.append(cache.folder)
        assert cache.was_there == (folders.count(cache.folder) > 1)
    assert len(set(folders)) == 3
    assert folders[0] == folders[1]


def test_a_named_folder_of_something_else_is_refused_with_what_differs(root: Path, tmp_path: Path):
    spec = attrs.evolve(SPEC, folder=str(tmp_path / "mine"))
    _, made = run_of(spec)
    assert not made.was_there
    assert made.folder == tmp_path / "mine"
    before = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
    _, found = run_of(spec)
    assert found.was_there
    cases: dict[str, Any] = {
        "the teacher's weights or buffers": {"run__seed": 4},
        "what is done to a sample before the teacher sees it": {"data__normalize": "data"},
        "the samples": {"data__per_class": 2},
        "the teacher's architecture": {"teacher__args": {"width": 5}},
    }
    for reason, changes in cases.items():
        with pytest.raises(StillhouseError) as caught:
            run_of(spec, **changes)
        assert "the cache is another one's" in str(caught.value)
        assert reason in str(caught.value)
        assert str(tmp_path / "mine") in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before


def test_differences_show_short_values():
    old, new = {"a": {"x": 1, "y": 2}, "weights": "abc"}, {"a": {"x": 1, "y": 3}, "weights": "def"}
    assert differences(old, new) == ["a (y was 2 and is 3)", "the teacher's weights or buffers"]


def test_a_cache_of_another_machine_is_used_with_a_warning(root: Path):
    _, cache = run_of()
    assert cache.folder is not None
    index = read_index(cache.folder)
    index["provenance"]["torch"] = "1.0"
    write_index(cache.folder, index)
    with pytest.warns(StillhouseWarning, match=r"computed elsewhere \(torch 1.0 then"):
        run_of()


def _cut(folder: Path) -> str:
    path = folder / "0.npy"
    path.write_bytes(path.read_bytes()[:-3])
    return "damaged"


def _flip(folder: Path) -> str:
    path = folder / "0.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "its checksum differs"


def _lose(folder: Path) -> str:
    (folder / "1.npy").unlink()
    return "is missing"


def _other(folder: Path) -> str:
    np.save(folder / "0.npy", np.zeros(3))
    return r"holds float64 \(3,\)"


def _pickled(folder: Path) -> str:
    np.save(folder / "0.npy", np.array([{}], dtype=object), allow_pickle=True)
    return "damaged"


def _no_json(folder: Path) -> str:
    (folder / "index.json").write_text("{")
    return "index is damaged"


def _changed_index(folder: Path) -> str:
    path = folder / "index.json"
    text = path.read_text()
    assert '"store": "float16"' in text
    path.write_text(text.replace('"store": "float16"', '"store": "float32"'))
    return "index is damaged or another version's: its checksum differs"


def _cut_index(folder: Path) -> str:
    path = folder / "index.json"
    path.write_bytes(path.read_bytes()[:-1000])
    return "index is damaged"


def _no_index(folder: Path) -> str:
    (folder / "index.json").unlink()
    return "no index.json"


@pytest.mark.parametrize(
    "damage", [_cut, _flip, _lose, _other, _pickled, _no_json, _changed_index, _cut_index, _no_index]
)
def test_damage_is_refused(root: Path, damage: Callable[[Path], str]):
    _, cache = run_of()
    assert cache.folder is not None
    said = damage(cache.folder)
    with pytest.raises(StillhouseError, match=said) as caught:
        run_of()
    assert str(cache.folder) in str(caught.value)


# Whole or not at all


def nothing_left(root: Path) -> bool:
    return not [p for p in root.glob("**/*") if not p.name.endswith(".lock")]


def test_a_look_makes_no_cache_and_uses_one_that_is_there(root: Path):
    assembly, cache = run_of(inspect_only=True)
    assert cache.folder is None
    assert len(cache) == 24
    assert assembly.batches is not None
    assert nothing_left(root)
    run_of()
    assert run_of(inspect_only=True)[1].was_there
