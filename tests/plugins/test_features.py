"""stillhouse-features: options, pairing, pooling and grids against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assembly_of
from torch import nn

from stillhouse import StillhouseError
from stillhouse_features import Features, LinkOptions, align, distance, pool, read_pair, resolve_links

torch.set_num_threads(1)
quick = settings(derandomize=True, deadline=None, max_examples=25)


def _model(*names: str) -> nn.Module:
    return nn.ModuleDict({n: nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity()}) for n in names})


def _features(**options: Any) -> Features:
    return Features(**{"name": "features", "links": [{"student": "s1", "teacher": "t1"}]} | options)


# ---- options ----


def test_a_recipe_table_makes_the_options() -> None:
    table: Any = [{"student": "stage3", "teacher": "stage3", "pool": "mean"}]
    made = Features(links=table)
    assert made.links == (LinkOptions(student="stage3", teacher="stage3"),)
    assert made.requires == ("teacher",)
    assert made.provides == ("links",)
    assert made.shorthand == "distance"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"links": []}, ["links: needs at least one link"]),
        ({"beta": -1.0}, ["beta: must be finite and >= 0, got -1.0"]),
        ({"links": [], "beta": -2.0}, ["links:", "beta: must be finite and >= 0, got -2.0"]),
        ({"distance": "mes"}, ["got 'mes'", "did you mean 'mse'"]),
        ({"links": [{"student": "a"}]}, ["links[0].teacher", "missing"]),
        ({"links": [{"student": "a", "teacher": "b", "pol": "mean"}]}, ["links[0].pol", "did you mean 'pool'"]),
        (
            {"links": [{"student": "a", "teacher": "b", "prefix": -1}]},
            ["links[0].prefix: must be a whole number >= 0, got -1"],
        ),
        ({"links": [{"student": "a", "teacher": "b", "name": "x/*"}]}, ["links[0].name", "x/*"]),
    ],
)
def test_wrong_options_are_refused_by_their_key(options: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(StillhouseError) as error:
        _features(**options)
    for text in said:
        assert text in str(error.value)


def test_a_link_made_in_python_is_checked_too() -> None:
    wrong: Any = {"student": 3, "teacher": "t", "pool": "avg", "teacher_pool": 1, "student_prefix": True, "prefix": 1.5}
    with pytest.raises(StillhouseError) as error:
        LinkOptions(**wrong)
    assert [f.where for f in error.value.faults] == ["student", "pool", "teacher_pool", "prefix", "student_prefix"]


# ---- pairing ----


def test_globs_pair_in_order_and_name_links_after_the_student() -> None:
    assembly = assembly_of(student=_model("s1", "s2"), teacher=_model("t1", "t2"))
    plugin = _features(links=[{"student": "s*.b", "teacher": "t?.a"}])
    specs = list(plugin.add_links(assembly))
    assert [(s.name, s.student, s.teacher) for s in specs] == [("s1.b", "s1.b", "t1.a"), ("s2.b", "s2.b", "t2.a")]
    taps = [(t.model, t.layer) for t in plugin.add_taps(assembly)]
    assert taps == [("student", "s1.b"), ("teacher", "t1.a"), ("student", "s2.b"), ("teacher", "t2.a")]


def test_names_are_unique_and_can_be_given() -> None:
    assembly = assembly_of(student=_model("s1", "s2"), teacher=_model("t1", "t2"))
    twice = _features(links=[{"student": "s1", "teacher": "t1"}, {"student": "s1", "teacher": "t2"}])
    assert [s.name for s in twice.add_links(assembly)] == ["s1-t1", "s1-t2"]
    named = _features(
        links=[{"student": "s?", "teacher": "t?", "name": "deep"}, {"student": "s1", "teacher": "t1", "name": "one"}]
    )
    assert [s.name for s in named.add_links(assembly)] == ["deep-s1", "deep-s2", "one"]
    whole = resolve_links(assembly, [LinkOptions(student="", teacher="")])
    assert [p.name for p in whole] == ["model"]


def test_equal_names_are_refused() -> None:
    same = _features(links=[{"student": "s1", "teacher": "t1"}, {"student": "s1", "teacher": "t1", "pool": "none"}])
    with pytest.raises(StillhouseError, match=r"links\[1\]\.name: must be unique, got 's1-t1' twice"):
        same.add_links(assembly_of(student=_model("s1"), teacher=_model("t1")))


def test_all_faults_of_all_links_come_at_once() -> None:
    assembly = assembly_of(student=_model("s1", "s2"), teacher=_model("t1"))
    plugin = _features(
        links=[
            {"student": "s11", "teacher": "t2"},
            {"student": "s1", "teacher": "t1"},
            {"student": "s?", "teacher": "t*"},
        ]
    )
    with pytest.raises(StillhouseError) as error:
        plugin.add_taps(assembly)
    assert [f.where for f in error.value.faults] == ["links[0].student", "links[0].teacher", "links[2]"]
    text = str(error.value)
    assert "no layer 's11'" in text
    assert "did you mean 's1'" in text
    assert "student 's?' with 2 layers (s1, s2)" in text
    assert "teacher 't*' with 1 layer (t1)" in text


def test_a_run_without_teacher_is_said() -> None:
    with pytest.raises(StillhouseError, match=r"links\[0\]\.teacher: .*no teacher"):
        _features().add_taps(assembly_of(student=_model("s1"), teacher=None))


# ---- reading ----


@quick
@given(b=st.integers(1, 4), c=st.integers(1, 6), h=st.integers(1, 5), w=st.integers(1, 5), seed=st.integers(0, 999))
def test_mean_is_over_positions_only(b: int, c: int, h: int, w: int, seed: int) -> None:
    x = torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed))
    expected = x.double().numpy().mean(axis=(2, 3))
    np.testing.assert_allclose(pool(x, "mean").numpy(), expected, atol=1e-6)
    tokens = x.flatten(2).transpose(1, 2)
    np.testing.assert_allclose(pool(tokens, "mean").numpy(), expected, atol=1e-6)
    patched = torch.cat([torch.full((b, 2, c), 1e6), tokens], 1)
    np.testing.assert_allclose(pool(patched, "mean", prefix=2).numpy(), expected, atol=1e-6)
    assert torch.equal(pool(patched, "cls"), torch.full((b, c), 1e6))
    assert torch.equal(pool(patched, "none", prefix=2), tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype: torch.dtype) -> None:
    # 4096 equal values: their float16 sum overflows, their bfloat16 running sum stalls at 256.
    x = torch.full((2, 3, 64, 64), 17.0, dtype=dtype, requires_grad=True)
    mean = pool(x, "mean")
    assert mean.dtype == torch.float32
    assert torch.equal(mean, torch.full((2, 3), 17.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s, t = read_pair(x, x.detach(), LinkOptions(student="s", teacher="t", pool="none"))
        value = distance(s * 1.001, t)
    assert s.dtype == t.dtype == value.dtype == torch.float32
    torch.autograd.backward(value)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def _bilinear(size: int, new: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The (new, size) weights of bilinear interpolation between half-pixel centres, from its definition."""
    weights = np.zeros((new, size))
    for i in range(new):
        place = min(max((i + 0.5) * size / new - 0.5, 0.0), size - 1.0)
        low = min(int(place), size - 1)
        high = min(low + 1, size - 1)
        weights[i, low] += 1.0 - (place - low)
        weights[i, high] += place - low
    return weights


@quick
@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    other=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 999),
)
def test_the_teachers_map_goes_to_the_students_grid(grid: tuple[int, int], other: tuple[int, int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, *grid, generator=g), torch.randn(2, 5, *other, generator=g)
    s, t = align(student, teacher)
    assert s is student
    rows, columns = _bilinear(other[0], grid[0]), _bilinear(other[1], grid[1])
    expected = np.einsum("hi,bcij,wj->bchw", rows, teacher.double().numpy(), columns)
    np.testing.assert_allclose(t.numpy(), expected, atol=1e-5)


def test_tokens_meet_maps_and_other_tokens_as_grids() -> None:
    g = torch.Generator().manual_seed(0)
    maps, tokens = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 1 + 16, 5, generator=g)
    link = LinkOptions(student="s", teacher="t", pool="none", teacher_prefix=1)
    s, t = read_pair(maps, tokens, link)
    assert torch.equal(s, maps)
    assert t.shape == (2, 5, 4, 4)
    assert torch.equal(t[:, :, 1, 2], tokens[:, 1 + 1 * 4 + 2])
    s, t = read_pair(torch.randn(2, 4, 3), tokens, link)
    assert s.shape == (2, 3, 2, 2)
    assert t.shape == (2, 5, 2, 2)
    s, t = read_pair(torch.randn(2, 16, 3), tokens, link)
    assert s.shape == (2, 16, 3)
    assert t.shape == (2, 16, 5)


def test_each_side_has_its_own_pooling_and_layout() -> None:
    g = torch.Generator().manual_seed(0)
    tokens, last = torch.randn(2, 5, 3, generator=g), torch.randn(2, 4, 6, 7, generator=g)
    link = LinkOptions(student="s", teacher="t", student_pool="cls", teacher_channels_last=True)
    s, t = read_pair(tokens, last, link)
    assert torch.equal(s, tokens[:, 0])
    np.testing.assert_allclose(t.numpy(), last.numpy().mean(axis=(1, 2)), atol=1e-6)
    vectors = torch.randn(2, 3)
    s, t = read_pair(vectors, last, LinkOptions(student="s", teacher="t"))
    assert torch.equal(s, vectors)
    assert t.shape == (2, 6 - 2)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "said"),
    [
        ((2, 3, 4, 4), (2, 5, 8, 8), {"pool": "cls"}, ["student: pool = 'cls'", "maps (B, C, H, W)", "'mean'"]),
        ((2, 3), (2, 5, 8, 8), {"pool": "none"}, ["vectors (B, C)", "teacher_pool = 'mean'"]),
        ((2, 17, 3), (2, 5, 4, 4), {"pool": "none"}, ["got 17", "student_prefix = 1", "4 x 4"]),
        ((2, 12, 3), (2, 9, 3), {"pool": "none"}, ["student's tokens must form a square grid, got 12"]),
        ((8, 4, 3), (2, 16, 3), {"pool": "none"}, ["one batch as first dimension, got 8 and 2"]),
        ((2, 4, 3), (2, 4, 3), {"prefix": 4}, ["prefix must be less than the number of tokens, 4, got 4"]),
        ((2, 4), (2, 4), {"prefix": 1}, ["prefix = 1", "needs tokens"]),
        ((2, 4), (2, 9, 4), {"student_prefix": 1}, ["student_prefix = 1", "needs tokens"]),
        ((2, 4), (2, 4), {"teacher_channels_last": True}, ["teacher_channels_last = true needs maps"]),
        ((2, 3, 4, 4, 4), (2, 4), {}, ["(2, 3, 4, 4, 4)", "must be vectors (B, C)"]),
    ],
)
def test_what_cannot_be_read_is_named(
    student: tuple[int, ...], teacher: tuple[int, ...], options: dict[str, Any], said: list[str]
) -> None:
    plugin = _features(links=[{"student": "s1", "teacher": "t1", **options}])
    (spec,) = plugin.add_links(assembly_of(student=_model("s1"), teacher=_model("t1")))
    assert spec.read is not None
    with pytest.raises(StillhouseError) as error:
        spec.read(torch.zeros(student), torch.zeros(teacher))
    for part in said:
        assert part in str(error.value)


def test_whole_numbers_are_no_features() -> None:
    with pytest.raises(StillhouseError, match=r"torch\.int64"):
        pool(torch.zeros(2, 3, dtype=torch.int64), "mean")
