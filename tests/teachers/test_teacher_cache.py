"""The teacher cache: one pass, exact moments, whole or not at all, and never another teacher's, transform's or data set's."""

from __future__ import annotations

import copy
import errno
import gc
import resource
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FEATURES, FIVE, TinyNet, recipe
from torch import nn

from stillhouse import Assembly, Plugin, StillhouseError, StillhouseWarning, hookimpl, plugin, prepare
from stillhouse.teachers.cache import CacheSpec, Moments, TeacherCache, teacher_cache
from stillhouse.teachers.cache import writer as filling_module
from stillhouse.teachers.cache.arrays import ArrayWriter
from stillhouse.teachers.cache.files import read_index, write_index
from stillhouse.teachers.cache.key import differences

SPEC = CacheSpec(taps=("body",), outputs=True, moments=True)


def run_of(
    spec: CacheSpec = SPEC, *, keep: bool = False, inspect_only: bool = False, **changes: Any
) -> tuple[Assembly, TeacherCache]:
    """A run that reads its teacher into a cache at assembly; ``keep``: the teacher stays."""
    held: list[TeacherCache] = []

    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        requires = ("teacher",)

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            held.append(teacher_cache(assembly, spec))
            if not keep:
                assembly.release_teacher(self)

    training = prepare(recipe(**changes), plugins=[Reader()], write=False, train_teacher=not inspect_only)
    return training.assembly, held[0]


def features_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "own"))
    return tmp_path / "own" / "features"


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of this test's own."""
    return features_root(monkeypatch, tmp_path)


def by_hand(assembly: Assembly, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's pooled features and its outputs, in evaluation."""
    teacher = assembly.teacher
    assert teacher is not None
    seen: list[torch.Tensor] = []
    handle = teacher.body.register_forward_hook(lambda _m, _i, out: seen.append(out))  # type: ignore[union-attr]
    with torch.no_grad():
        output = teacher(inputs)
    handle.remove()
    return seen[0].mean((2, 3)), output


# Moments


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 6), st.sampled_from([0.0, 1e3, 1e6]))
def test_moments_are_numpys_whatever_the_batches_and_the_mean(sizes: list[int], d: int, mean: float):
    generator = np.random.default_rng(sum(sizes) * 7 + d)
    rows = generator.normal(size=(sum(sizes), d)) + mean
    moments = Moments(d)
    start = 0
    for size in sizes:
        moments.add(torch.from_numpy(rows[start : start + size]))
        start += size
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.square, np.square(rows).sum(), rtol=1e-12)
    if len(rows) > 1:
        exact = np.cov(rows - mean, rowvar=False, ddof=1).reshape(d, d)
        # What adding the mean rounded away is not the merge's.
        np.testing.assert_allclose(moments.covariance, exact, atol=1e-13 + 1e-15 * max(1.0, mean) * 8)
    halves = Moments(d), Moments(d)
    for half, part in zip(halves, np.array_split(rows, 2), strict=True):
        half.add(torch.from_numpy(part))
    halves[0].merge(halves[1])
    np.testing.assert_allclose(halves[0].scatter, moments.scatter, atol=1e-9 * max(1.0, moments.square))


def test_a_large_mean_that_sums_of_squares_lose_is_no_trouble():
    rows = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e8
    moments = Moments(3)
    for part in rows.split(100):
        moments.add(part)
    exact = np.cov(rows.numpy() - 1e8, rowvar=False)
    np.testing.assert_allclose(moments.covariance, exact, rtol=0, atol=1e-7)
    naive = rows.square().mean(0) - rows.mean(0).square()
    assert (naive - torch.from_numpy(exact).diagonal()).abs().min() > 1e-2


def test_one_row_has_no_covariance():
    moments = Moments(2)
    moments.add(torch.ones(1, 2))
    moments.add(torch.ones(0, 2))
    with pytest.raises(ValueError, match="1 rows"):
        _ = moments.covariance


# What is in it


def test_rows_are_the_teachers_by_id_in_any_order(root: Path):
    assembly, cache = run_of(keep=True)
    assert assembly.batches is not None
    for batch in assembly.batches.evaluation("train"):
        features, output = by_hand(assembly, batch.input)
        shuffled = torch.randperm(len(batch.id), generator=torch.Generator().manual_seed(1))
        found = cache.take("features/body", batch.id[shuffled])
        torch.testing.assert_close(found, features[shuffled], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(cache.take("output", batch.id), output, rtol=1e-3, atol=1e-6)
    assert len(cache) == 24
    assert cache.served == 48
    assert cache.shape("features/body") == (6,)
    assert {p.name for p in root.iterdir() if not p.name.endswith(".lock")} == {cache.folder.name}  # type: ignore[union-attr]


def test_moments_come_from_the_float32_features_and_not_from_what_is_stored(root: Path):
    assembly, cache = run_of(keep=True)
    assert assembly.batches is not None
    rows = torch.cat([by_hand(assembly, b.input)[0] for b in assembly.batches.evaluation("train")]).double()
    exact = np.cov(rows.numpy(), rowvar=False)
    stored = np.cov(cache.rows("features/body", 0, 24).double().numpy(), rowvar=False)
    found = cache.moments.covariance.numpy()
    assert np.abs(found - exact).max() < 1e-14
    assert np.abs(stored - exact).max() > 1e-9


def test_the_teacher_leaves_memory_and_is_left_as_it_was(root: Path):
    teacher = TinyNet(width=6).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    gone = weakref.ref(teacher)
    held: list[Any] = []

    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        requires = ("teacher",)

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            held.append(teacher_cache(assembly, SPEC))
            assert assembly.teacher is not None
            held.append({k: v.clone() for k, v in assembly.teacher.state_dict().items()})
            assembly.release_teacher(self)

    training = prepare(recipe(), plugins=[Reader()], teacher=teacher, write=False)
    assert all(torch.equal(before[k], v) for k, v in held[1].items())
    assert not teacher.body._forward_hooks
    del teacher
    gc.collect()
    assert gone() is None
    assert training.run.teacher is None
    assert not training.walk.composition.runs_teacher
    assert training.fit().metrics["val"]


def test_another_plugin_that_reads_the_teacher_keeps_it_in_memory(root: Path):
    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        requires = ("teacher",)

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            teacher_cache(assembly, SPEC)
            assembly.release_teacher(self)

    from stillhouse_features import Features
    from stillhouse_projector import Projector

    training = prepare(recipe(), plugins=[Reader(), Features(links=FEATURES["links"]), Projector()], write=False)
    assert training.run.teacher is not None
    assert training.fit().metrics["val"]


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_what_the_student_sees_in_the_epochs_they_stand_for(root: Path, workers: int):
    transforms = [{"use": "RandomCrop", "size": 6, "padding": 1}, {"use": "RandomHorizontalFlip"}]
    spec = attrs.evolve(SPEC, views=2, store="float32")
    assembly, cache = run_of(spec, keep=True, data__transforms=transforms, data__workers=workers)
    assert assembly.batches is not None
    assert cache.views == 2
    stream, seen = assembly.batches.training(), []
    for step in range(4 * assembly.steps_per_epoch):
        batch = next(stream)
        epoch = step // assembly.steps_per_epoch
        seen.append((batch.id, batch.input))
        torch.testing.assert_close(
            cache.take("output", batch.id, epoch), by_hand(assembly, batch.input)[1], rtol=1e-4, atol=1e-6
        )
    ids = [torch.cat([i for i, _ in seen[e * 3 : e * 3 + 3]]) for e in range(4)]
    looks = [torch.cat([x for _, x in seen[e * 3 : e * 3 + 3]])[ids[e].argsort()] for e in range(4)]
    assert torch.equal(looks[0], looks[2])
    assert torch.equal(looks[1], looks[3])
    assert not torch.equal(looks[0], looks[1])
    assert not torch.equal(ids[0], ids[2])


def test_the_pool_is_the_whole_training_split(root: Path):
    _, few = run_of(data__per_class=2)
    _, pool = run_of(attrs.evolve(SPEC, split="pool"), data__per_class=2)
    assert len(few) == 6
    assert len(pool) == 24
    assert set(few.ids) < set(pool.ids)
    ids = torch.from_numpy(few.ids)
    torch.testing.assert_close(few.take("output", ids), pool.take("output", ids), rtol=1e-3, atol=1e-5)


def test_a_sample_that_is_not_there_is_named(root: Path):
    _, cache = run_of(data__per_class=2)
    assert cache.missing([int(cache.ids[0]), 999]) == [999]
    with pytest.raises(StillhouseError, match=r"1 of 2 samples are not in the teacher cache: ids \[40\]"):
        cache.take("output", torch.tensor([int(cache.ids[0]), 40]))
    assert cache.missed == 2
    with pytest.raises(ValueError, match="without moments"):
        _ = TeacherCache(cache.ids, {}, None, folder=None, was_there=False).moments


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
        cache = _pass(Attentive(heads, act), spec)
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


class Failing(TinyNet):
    """Fails in the second batch."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Failing.calls += 1
        if Failing.calls == 2:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupted_pass_leaves_nothing(root: Path):
    Failing.calls = 0
    with pytest.raises(KeyboardInterrupt):
        _pass(Failing(width=6))
    assert nothing_left(root)


def _pass(teacher: nn.Module, spec: CacheSpec = SPEC, **changes: Any) -> TeacherCache:
    held: list[TeacherCache] = []

    @plugin
    class Reader(Plugin):
        """Reads the teacher."""

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            held.append(teacher_cache(assembly, spec))

    prepare(recipe(**changes), plugins=[Reader()], teacher=teacher, write=False)
    return held[0]


def test_what_a_killed_pass_left_is_cleared_by_the_next(root: Path):
    _, cache = run_of()
    assert cache.folder is not None
    left = cache.folder.parent / f".{cache.folder.name}.tmp12345"
    cache.folder.rename(left)
    (left / "index.json").unlink()
    _, again = run_of()
    assert not again.was_there
    assert not left.exists()


def test_what_a_killed_pass_of_another_teacher_left_is_cleared_unless_it_is_at_work(root: Path):
    root.mkdir(parents=True)
    dead, alive, foreign = root / ".0123.tmp1", root / ".4567.tmp2", root / ".notes.tmp3"
    for folder in (dead, alive, foreign):
        folder.mkdir()
    (root / ".0123.lock").touch()
    with FileLock(root / ".4567.lock"):
        run_of()
    assert not dead.exists()
    assert alive.exists()
    assert foreign.exists(), "nothing says that a pass made it"


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(root: Path):
    """A limit on the size of files, which writes meet as they meet a full disk."""
    root.mkdir(parents=True)
    spec = attrs.evolve(SPEC, pool="none", moments=False)
    with files_at_most(6000), pytest.raises(StillhouseError, match="cannot be kept") as caught:
        run_of(spec)
    assert isinstance(caught.value.__cause__, OSError)
    assert nothing_left(root)
    _, cache = run_of(spec)
    assert not cache.was_there


def test_no_room_from_the_start_is_said_before_the_pass(root: Path, monkeypatch: pytest.MonkeyPatch):
    class Usage:
        free = 1 << 20

    monkeypatch.setattr(filling_module.shutil, "disk_usage", lambda _path: Usage)
    with pytest.raises(StillhouseError, match=r"takes 0\.\d MiB, .* 1\.0 MiB are free"):
        run_of()
    assert nothing_left(root)


def test_a_write_error_is_named_by_its_folder(root: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(self: ArrayWriter, rows: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrayWriter, "write", fail)
    with pytest.raises(StillhouseError, match="No space left on device") as caught:
        run_of()
    assert str(root) in str(caught.value)
    assert "nothing was left behind" in str(caught.value)
    assert nothing_left(root)


def test_two_runs_at_once_make_one_pass(root: Path, monkeypatch: pytest.MonkeyPatch):
    passes: list[int] = []
    fill = filling_module.fill
    monkeypatch.setattr("stillhouse.teachers.cache.access.fill", lambda *a: (passes.append(1), fill(*a)))
    caches: list[TeacherCache] = []
    teacher = TinyNet(width=6)  # made here: threads share the global generator that would start it
    threads = [threading.Thread(target=lambda: caches.append(_pass(copy.deepcopy(teacher)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passes) == 1
    assert sorted(c.was_there for c in caches) == [False, True]


def test_values_beyond_half_precision_are_refused_or_kept_in_float32(root: Path):
    teacher = TinyNet(width=6)
    with torch.no_grad():
        teacher.head.bias[0] = 1e6
    with pytest.raises(StillhouseError, match=r"beyond the range of float16 .*store = \"float32\""):
        _pass(teacher)
    assert nothing_left(root)
    cache = _pass(teacher, attrs.evolve(SPEC, store="float32"))
    assert cache.take("output", torch.from_numpy(cache.ids))[:, 0].min() > 9e5


def test_values_that_are_not_finite_are_refused_with_the_sample(root: Path):
    teacher = TinyNet(width=6)
    with torch.no_grad():
        teacher.head.bias[0] = torch.inf  # NaN is refused before
    with pytest.raises(StillhouseError, match="the values of sample 0 are not finite"):
        _pass(teacher)


class Odd(nn.Module):
    """Gives ``body`` what a test asks for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body, self.unused = kind, nn.Identity(), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = x.flatten(1)
        if self.kind == "tuple":
            self.body((x, x))
        elif self.kind == "twice":
            self.body(self.body(x))
        elif self.kind == "in place":
            self.body(x.clone()).relu_()
        elif self.kind == "rows":
            self.body(x[:1])
        elif self.kind == "whole":
            self.body(x.mean())
        elif self.kind == "int":
            self.body(x.long())
        return {"what": 1} if self.kind == "dict" else x[:, :3]


@pytest.mark.parametrize(
    ("kind", "taps", "said"),
    [
        ("tuple", "body", "gives tuple, not a tensor"),
        ("twice", "body", "2 times called"),
        ("in place", "body", "overwritten in place"),
        ("rows", "body", "must give a row for each"),
        ("whole", "body", r"must be vectors \(B, C\), tokens"),
        ("int", "body", "not floating-point"),
        ("", "unused", "not called"),
        ("", "bodi", "did you mean 'body'"),
        ("dict", "", "gives dict"),
    ],
)
def test_a_layer_that_cannot_be_cached_is_named(root: Path, kind: str, taps: str, said: str):
    with pytest.raises(StillhouseError, match=said):
        _pass(Odd(kind), CacheSpec(taps=(taps,)))
    assert nothing_left(root)


def test_a_look_makes_no_cache_and_uses_one_that_is_there(root: Path):
    assembly, cache = run_of(inspect_only=True)
    assert cache.folder is None
    assert len(cache) == 24
    assert assembly.batches is not None
    assert nothing_left(root)
    run_of()
    assert run_of(inspect_only=True)[1].was_there


def test_a_run_opens_a_cache_once(root: Path):
    assembly, cache = run_of()
    assert teacher_cache(assembly, SPEC) is cache
    with pytest.raises(StillhouseError, match="has no teacher to read"):
        teacher_cache(assembly, attrs.evolve(SPEC, outputs=False))


# The plugin `cache`


def test_a_run_from_the_cache_is_the_run_with_a_live_teacher(root: Path):
    plugins = [FIVE[name] for name in ("features", "normalizer", "projector", "logits")]
    live = prepare(recipe(*plugins), write=False).fit()
    cached = prepare(recipe({"use": "cache", "store": "float32"}, *plugins), write=False)
    assert cached.run.teacher is None
    result = cached.fit()
    for key, value in live.student.state_dict().items():
        torch.testing.assert_close(result.student.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    module = cached.run.composition.plugin_module("cache")
    # Two arrays: two epochs of 24 samples, and the two samples of the rehearsed step.
    assert module.cache.served == 2 * (48 + 2)
    assert module.cache.missed == 0


def test_the_cache_serves_patterns_first_asked_for_after_the_teacher_went(root: Path):
    training = prepare(recipe({"use": "cache"}, FEATURES, {"use": "projector"}), write=False)
    assert training.walk.composition.match("teacher", "bo*") == ["body"]
    with pytest.raises(StillhouseError, match="has no layer 'boddy'"):
        training.walk.composition.match("teacher", "boddy")


def test_nothing_to_cache_is_refused(root: Path):
    with pytest.raises(StillhouseError, match="no plugin reads a layer of the teacher"):
        prepare(recipe({"use": "cache", "outputs": False}), write=False)


def test_two_numbers_of_views_cannot_be(root: Path):
    first = {"use": "tcs", "layer": "dropout", "views": 2}
    with pytest.raises(StillhouseError, match="another plugin asks for 2"):
        prepare(recipe(first, {"use": "cache", "views": 3}), write=False)
