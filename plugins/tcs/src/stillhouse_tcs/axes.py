"""The coordinate system: mean and axes of a teacher's features, from their mean and covariance."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor

from stillhouse import StillhouseError, StillhouseWarning
from stillhouse.errors import did_you_mean
from stillhouse.teachers.cache import Moments

__all__ = ["KINDS", "Axes", "Match", "find_axes", "load_axes", "save_axes"]

KINDS = ("pca", "random", "identity")

Match = Literal["number", "variance"]
"""The property that control axes share with principal ones."""

_EPS = {"float32": 8 * 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Relative rounding noise of a teacher's features, by the precision it runs in."""


@attrs.frozen(kw_only=True, eq=False)
class Axes:
    """A coordinate system for features divided by ``scale``: c = vectors^T (z / scale - mean).

    Attributes:
        mean: mu (d,), float64.
        vectors: V (d, k), float64, orthonormal columns.
        scale: the root of the features' mean variance, by which they are divided.
        spectrum: all d variances of the features' principal axes, in descending order, of scaled features.
        rank: how many of them are above the rounding noise.
        explained: the share of the variance that the k axes hold.
        energy: the mean of sum_j c_j^2 over the samples measured.
        kind: where the axes come from.
    """

    mean: Tensor
    vectors: Tensor
    scale: float
    spectrum: Tensor
    rank: int
    explained: float
    energy: float
    kind: str

    @property
    def k(self) -> int:
        """The number of axes."""
        return self.vectors.shape[1]

    @property
    def centre(self) -> Tensor:
        """The mean (d,) of the features as they are, float64."""
        return self.mean * self.scale


def find_axes(
    moments: Moments,
    kind: str,
    k: int | float,
    *,
    match: Match | None = None,
    precision: str = "float32",
    base: Path | None = None,
) -> Axes:
    """Find the axes of features whose moments were measured.

    Source: 2412.09388, principal axes of the features of the task's own training images. Computed in float64 from the
    moments of float32 features; those of half-precision ones would show a rank that is rounding.

    Args:
        moments: of the features (N, d).
        kind: ``pca``; ``random``: orthonormal, uniformly distributed (from torch's global generator); ``identity``: the
            features' own axes, by descending variance; or a file that :func:`save_axes` wrote.
        k: how many axes, or the share of the variance, above 0 to 1, that they are to hold.
        match: of axes that are not principal: ``number``: as many as ``k`` would be principal ones; ``variance``: as few
            as hold what those hold; None: ``k`` means what it says.
        precision: the teacher's, which its rounding noise follows from.
        base: the folder that a file's path starts from.

    Raises:
        StillhouseError: fewer than two samples, constant features, ``k`` above what there is, no such file.
    """
    d = len(moments.mean)
    if moments.count < 2:
        raise StillhouseError(f"needs at least 2 samples, got {moments.count}", where="axes")
    covariance = moments.covariance
    spectrum, principal = torch.linalg.eigh((covariance + covariance.T) / 2)
    spectrum, principal = spectrum.flip(0).clamp(min=0), principal.flip(1)
    noise = max(_EPS[precision] ** 2 * moments.square / (moments.count * d), d * 2.0**-52 * float(spectrum[0]))
    rank = min(int((spectrum > noise).sum()), moments.count - 1)
    variance = float(covariance.trace())
    if rank == 0:
        raise StillhouseError(
            f"needs features that vary, got {d} equal ones for all {moments.count} samples",
            where="layer",
            hint="read another layer, or a trained teacher",
        )
    scale = (variance / d) ** 0.5
    mean, covariance = moments.mean / scale, covariance / scale**2
    vectors, most = principal, rank
    if kind == "random":
        square = torch.randn(d, d, dtype=torch.float64)
        q, r = torch.linalg.qr(square)
        vectors, most = q * r.diagonal().sign(), d
    elif kind == "identity":
        order = covariance.diagonal().argsort(descending=True, stable=True)
        vectors, most = torch.eye(d, dtype=torch.float64)[:, order], d
    elif kind != "pca":
        given = load_axes(_find_file(kind, base), d)
        mean, vectors = (given[0] / scale, given[1]) if given[0] is not None else (mean, given[1])
        most = vectors.shape[1]
    shares = (vectors * (covariance @ vectors)).sum(0) / covariance.trace()
    if match is not None and kind != "pca":
        principals = _count_axes(k, spectrum / variance, rank, d, moments.count, "pca")
        k = principals if match == "number" else min(1.0, float(spectrum[:principals].sum()) / variance)
    n = _count_axes(k, shares, most, d, moments.count, kind)
    vectors = vectors[:, :n]
    offset = vectors.T @ (moments.mean / scale - mean)
    explained = float(shares[:n].sum())
    energy = explained * float(covariance.trace()) * (moments.count - 1) / moments.count + float(offset.square().sum())
    return Axes(
        mean=mean,
        vectors=vectors.contiguous(),
        scale=scale,
        spectrum=spectrum / scale**2,
        rank=rank,
        explained=explained,
        energy=energy,
        kind=kind,
    )


def _count_axes(k: int | float, shares: Tensor, most: int, d: int, samples: int, kind: str) -> int:
    """Count the axes of option ``k``; ``most`` is the number there is."""
    if isinstance(k, int):
        if k > most:
            why = f"{samples} samples of {d} features span {most} dimensions" if kind == "pca" else f"there are {most}"
            raise StillhouseError(
                f"must be at most {most}, got {k}: {why}",
                where="k",
                hint="or a share of the variance: 0.99",
            )
        return k
    reached = shares.cumsum(0)
    enough = (reached >= k - 1e-12).nonzero()
    n = int(enough[0]) + 1 if len(enough) and k < 1.0 else (d if kind in KINDS else most)
    if n > most:
        warnings.warn(
            f"k = {k} would be {n} axes, but the features of {samples} samples span {most} dimensions: {most} are used",
            StillhouseWarning,
            stacklevel=4,
        )
    return min(n, most)


def _find_file(path: str, base: Path | None) -> Path:
    file = (base or Path()) / Path(path).expanduser()
    if not file.is_file():
        near = did_you_mean(path, KINDS)
        hint = near if near.startswith("did you mean") else "axes are 'pca', 'random', 'identity' or a file"
        raise StillhouseError(f"file not found: {file}", where="axes", hint=hint)
    return file


def save_axes(path: str | Path, moments: Moments, k: int | None = None) -> None:
    """Write mean and principal axes of features as a safetensors file, for ``axes = FILE`` in another run.

    Args:
        path: the file.
        moments: of the features, such as ``teacher_cache(assembly, spec).moments``.
        k: how many axes; None: as many as the features' rank.

    Raises:
        StillhouseError: as :func:`find_axes` does.
    """
    from safetensors.torch import save_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillhouseWarning)
        found = find_axes(moments, "pca", 1.0 if k is None else k)
    save_file({"mean": found.mean * found.scale, "axes": found.vectors}, path)


def load_axes(path: Path, d: int) -> tuple[Tensor | None, Tensor]:
    """Load mean (d,), if there is one, and axes (d, K) of a file that :func:`save_axes` wrote, in float64.

    Raises:
        StillhouseError: no such tensors, of another width, or axes that are not orthonormal.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StillhouseError(f"is damaged or not a safetensors file: {error}", where=str(path)) from None
    axes, mean = held.get("axes"), held.get("mean")
    if axes is None or axes.ndim != 2 or (mean is not None and mean.shape != axes.shape[:1]):
        raise StillhouseError(
            "must hold 'axes' (features, k) and optionally 'mean' (features,), got "
            + (", ".join(f"{n} {tuple(t.shape)}" for n, t in held.items()) or "nothing"),
            where=str(path),
        )
    if axes.shape[0] != d:
        raise StillhouseError(
            f"its axes must have the {d} features of the teacher's layer, got {axes.shape[0]}",
            where=str(path),
            hint="save the axes of the same teacher and layer",
        )
    axes = axes.double()
    off = float((axes.T @ axes - torch.eye(axes.shape[1], dtype=torch.float64)).abs().max())
    if not off < 1e-4:
        raise StillhouseError(f"its axes must be orthonormal to 1e-4, got an error of {off:.2g}", where=str(path))
    # Orthonormal to float64, each column on the side it had.
    exact = torch.linalg.qr(axes)[0]
    exact *= (exact * axes).sum(0).sign()
    return None if mean is None else mean.double(), exact
