"""The teacher cache: exact moments, the teacher's rows by id, and runs that read them as they would a live teacher."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FEATURES, FIVE, TinyNet, recipe
from support.teacher_caches import SPEC, features_root, run_of

from stillhouse import Assembly, Plugin, StillhouseError, hookimpl, plugin, prepare
from stillhouse.teachers.cache import Moments, TeacherCache, teacher_cache


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
    assembly, cache = run_of(keep=True, speed={"fold_norms": False})
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


# Whole or not at all


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
