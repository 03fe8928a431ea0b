"""The axes of the coordinate path, against NumPy, hand-computed values and what theory says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.coordinates import moments_of, rows_of

from stillhouse import StillhouseError, StillhouseWarning
from stillhouse.teachers.cache import Moments
from stillhouse_tcs import find_axes, load_axes, save_axes


def test_principal_axes_are_those_of_the_svd():
    rows = rows_of()
    axes = find_axes(moments_of(rows), "pca", 5)
    centred = rows - rows.mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    variances = s**2 / (len(rows) - 1)
    scale = np.sqrt(variances.sum() / 8)
    assert axes.scale == pytest.approx(scale)
    np.testing.assert_allclose(axes.spectrum, variances / scale**2, rtol=1e-10)
    np.testing.assert_allclose(np.abs(axes.vectors.numpy().T @ vt[:5].T), np.eye(5), atol=1e-9)
    assert axes.explained == pytest.approx(variances[:5].sum() / variances.sum())
    coordinates = (rows / scale - axes.mean.numpy()) @ axes.vectors.numpy()
    assert axes.energy == pytest.approx(np.square(coordinates).sum(1).mean())
    assert axes.rank == 8
    assert axes.k == 5


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.floats(0.05, 0.999), st.integers(2, 12), st.sampled_from(["pca", "random", "identity"]))
def test_a_share_takes_the_fewest_axes_that_hold_it(share: float, d: int, kind: str):
    rows = rows_of(50, d, seed=d)
    torch.manual_seed(d)
    axes = find_axes(moments_of(rows), kind, share)
    assert axes.explained >= share - 1e-9
    cov = np.cov(rows, rowvar=False).reshape(d, d) / axes.scale**2
    held = np.diag(axes.vectors.numpy().T @ cov @ axes.vectors.numpy()) / np.trace(cov)
    assert held[:-1].sum() < share
    np.testing.assert_allclose(axes.vectors.T @ axes.vectors, np.eye(axes.k), atol=1e-12)


@pytest.mark.parametrize("kind", ["random", "identity"])
@pytest.mark.parametrize("k", [2, 0.9])
def test_control_axes_match_principal_ones_in_number_or_in_variance(kind: str, k: int | float):
    moments = moments_of(rows_of(50, 8))
    principal = find_axes(moments, "pca", k)
    torch.manual_seed(1)
    as_many = find_axes(moments, kind, k, match="number")
    assert as_many.k == principal.k
    assert as_many.explained < principal.explained
    torch.manual_seed(1)
    as_much = find_axes(moments, kind, k, match="variance")
    assert as_much.explained >= principal.explained - 1e-9
    torch.manual_seed(1)
    assert find_axes(moments, kind, as_much.k - 1).explained < principal.explained


def test_the_axes_of_identity_are_features_by_variance():
    rows = rows_of(40, 5)
    axes = find_axes(moments_of(rows), "identity", 2)
    assert np.argsort(rows.var(0))[::-1][:2].tolist() == axes.vectors.argmax(0).tolist()


def test_k_is_clipped_to_the_rank_with_one_notice_and_an_explicit_one_is_an_error():
    few = moments_of(rows_of(6, 20))
    with pytest.warns(StillhouseWarning, match=r"20 axes, but the features of 6 samples span 5 dimensions") as caught:
        assert find_axes(few, "pca", 1.0).k == 5
    assert len(caught) == 1
    assert find_axes(few, "pca", 5).k == 5
    with pytest.raises(
        StillhouseError, match=r"k: must be at most 5, got 6: 6 samples of 20 features span 5 dimensions"
    ):
        find_axes(few, "pca", 6)
    with pytest.raises(StillhouseError, match="k: must be at most 20, got 21: there are 20"):
        find_axes(few, "random", 21)
    assert find_axes(few, "random", 20).k == 20


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_rank_is_that_of_the_float32_features(offset: float):
    rows = torch.from_numpy(rows_of(400, 64, rank=20) + offset).float()
    moments, halved = Moments(64), Moments(64)
    moments.add(rows)
    halved.add(rows.half())
    assert find_axes(moments, "pca", 0.9).rank == 20
    assert find_axes(halved, "pca", 0.9).rank == 64  # why half-precision features are not what is measured


def test_too_few_samples_and_constant_features_are_refused():
    with pytest.raises(StillhouseError, match="needs at least 2 samples, got 1"):
        find_axes(moments_of(rows_of(1)), "pca", 2)
    with pytest.raises(StillhouseError, match="features that vary, got 8 equal ones for all 10 samples"):
        find_axes(moments_of(np.repeat(rows_of(1), 10, 0)), "pca", 0.99)


def test_axes_go_through_a_file(tmp_path: Path):
    moments = moments_of(rows_of(seed=1))
    save_axes(tmp_path / "axes.safetensors", moments)
    other = moments_of(rows_of(seed=2))
    axes = find_axes(other, "axes.safetensors", 3, base=tmp_path)
    own = find_axes(moments, "pca", 3)
    torch.testing.assert_close(axes.vectors, own.vectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(axes.mean * axes.scale, own.mean * own.scale)
    rows = torch.from_numpy(rows_of(seed=2)) / axes.scale
    energy = ((rows - axes.mean) @ axes.vectors).square().sum(1).mean()
    assert axes.energy == pytest.approx(float(energy))
    with pytest.raises(StillhouseError, match="must be at most 8, got 9: there are 8"):
        find_axes(other, "axes.safetensors", 9, base=tmp_path)
    with pytest.raises(StillhouseError, match="its axes must have the 9 features of the teacher's layer, got 8"):
        load_axes(tmp_path / "axes.safetensors", 9)


def test_a_bad_axes_file_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(StillhouseError, match="did you mean 'pca'"):
        find_axes(moments_of(rows_of()), "pcaa", 2, base=tmp_path)
    with pytest.raises(StillhouseError, match="file not found"):
        find_axes(moments_of(rows_of()), "a.safetensors", 2, base=tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(StillhouseError, match="damaged or not a safetensors"):
        load_axes(path, 8)
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(StillhouseError, match=r"got other \(2,\)"):
        load_axes(path, 8)
    save_file({"axes": torch.ones(8, 2)}, path)
    with pytest.raises(StillhouseError, match="must be orthonormal"):
        load_axes(path, 8)
