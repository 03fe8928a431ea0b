"""The pass that fills a teacher's cache: whole or not at all, once for all who wait, and what cannot be stored is named."""

from __future__ import annotations

import copy
import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from filelock import FileLock
from support import TinyNet
from support.teacher_caches import SPEC, cache_of, features_root, run_of
from torch import nn

from stillhouse import StillhouseError
from stillhouse.teachers.cache import CacheSpec, TeacherCache
from stillhouse.teachers.cache import writer as filling_module
from stillhouse.teachers.cache.arrays import ArrayWriter


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of this test's own."""
    return features_root(monkeypatch, tmp_path)


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
        cache_of(Failing(width=6))
    assert nothing_left(root)


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
    threads = [threading.Thread(target=lambda: caches.append(cache_of(copy.deepcopy(teacher)))) for _ in range(2)]
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
        cache_of(teacher)
    assert nothing_left(root)
    cache = cache_of(teacher, attrs.evolve(SPEC, store="float32"))
    assert cache.take("output", torch.from_numpy(cache.ids))[:, 0].min() > 9e5


def test_values_below_half_precision_are_refused_or_kept_in_float32(root: Path):
    teacher = TinyNet(width=6)
    with torch.no_grad():
        for parameter in teacher.head.parameters():
            parameter.mul_(1e-8)
    with pytest.raises(
        StillhouseError, match=r"is the greatest, and float16 has few digits below 6.1e-05.*\"float32\""
    ):
        cache_of(teacher)
    assert nothing_left(root)
    cache = cache_of(teacher, attrs.evolve(SPEC, store="float32"))
    assert 0 < cache.take("output", torch.from_numpy(cache.ids)).abs().max() < 1e-6


def test_values_that_are_not_finite_are_refused_with_the_sample(root: Path):
    teacher = TinyNet(width=6)
    with torch.no_grad():
        teacher.head.bias[0] = torch.inf  # NaN is refused before
    with pytest.raises(StillhouseError, match="the values of sample 0 are not finite"):
        cache_of(teacher)


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
        cache_of(Odd(kind), CacheSpec(taps=(taps,)))
    assert nothing_left(root)
