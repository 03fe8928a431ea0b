"""The plugin: which side of which links is normalised, and how."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Assembly, Fault, Plugin, Step, StillhouseError, StillhouseWarning, hookimpl, plugin
from stillhouse.distributed import processes as parallel
from stillhouse.errors import raise_faults
from stillhouse.layout import channels, full_precision, map_rows
from stillhouse_normalizer.conditions import Conditions
from stillhouse_normalizer.standardisation import (
    MANY,
    require_two_rows,
    scale_to_unit_length,
    scale_to_unit_rms,
    standardise_channels,
    standardise_rows,
    standardise_together,
)
from stillhouse_normalizer.whitening import SINGULAR_EPS, whiten

__all__ = ["DEFAULT_EPS", "Kind", "Normalizer", "Whitening", "normalize"]

Kind = Literal["layer", "batch", "whiten", "l2", "rms"]
OF_THE_BATCH = ("batch", "whiten", "rms")
"""Kinds with statistics of the whole batch."""
Whitening = Literal["cholesky", "zca"]

DEFAULT_EPS: dict[str, float] = {"layer": 1e-5, "batch": 1e-5, "whiten": 1e-3, "l2": 1e-6, "rms": 1e-12}


def normalize(x: Tensor, kind: Kind, eps: float, whitening: Whitening = "cholesky") -> Tensor:
    """Normalise features of any layout: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W); same shape.

    Computed in float32 or wider whatever autocast says; gives float32, or float64 for float64.

    Raises:
        StillhouseError: an unknown layout, or one row where statistics need two.
    """
    if kind == "layer" and x.ndim == 2 and x.dtype is torch.float32:
        return F.layer_norm(x, x.shape[-1:], eps=eps)  # float32 whatever autocast says, and what most steps ask for
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    def on_rows(rows: Tensor) -> Tensor:
        if kind == "layer":
            return standardise_rows(rows, eps)
        if kind == "batch":
            return standardise_channels(rows, eps)
        if kind == "l2":
            return scale_to_unit_length(rows, eps)
        if kind == "rms":
            return scale_to_unit_rms(rows, eps)
        return whiten(rows, eps, whitening).to(dtype)

    with full_precision(x):
        return map_rows(on_rows, x.to(dtype))


@plugin
class Normalizer(Plugin):
    """Standardise, whiten or scale features before they are projected and compared.

    VkD (2403.06213, section 3.4) standardises the teacher for discriminative tasks and whitens it for generative ones.
    Statistics are those of the batch at hand: nothing is trained, and nothing is kept beyond the step.

    Options:
        kind: ``layer`` (each row over its channels), ``batch`` (each channel over the batch's rows), ``whiten``,
            ``l2`` (each row to length 1) or ``rms`` (all rows by one number, so that their mean square is 1).
        side: which side is normalised: ``teacher``, ``student`` or ``both``.
        links: glob over link names.
        whitening: ``cholesky`` or ``zca``.
        eps: what is added under the root (``layer``, ``batch``: 1e-5; ``rms``: 1e-12), the shrinkage (``whiten``: 1e-3), or the least
            length (``l2``: 1e-6).
        gather: with several processes, statistics (``batch``, ``whiten``, ``rms``) are those of the whole batch, gathered with
            gradient, as in one process; false takes each process's own share.
    """

    requires = ("links",)

    kind: Kind = "layer"
    side: Literal["teacher", "student", "both"] = "teacher"
    links: str = "*"
    whitening: Whitening = "cholesky"
    eps: float | None = None
    gather: bool = True

    def __attrs_post_init__(self) -> None:
        if self.eps is not None and not self.eps > 0.0:
            raise StillhouseError(f"must be > 0, got {self.eps}", where="eps")
        if self.kind == "whiten" and self._eps >= 1.0:
            raise StillhouseError(f"must be < 1, got {self.eps}", where="eps")
        if self.whitening != "cholesky" and self.kind != "whiten":
            warnings.warn(
                f"plugin {self.name or 'normalizer'!r}: whitening = {self.whitening!r} has no effect with "
                f"kind = {self.kind!r}",
                StillhouseWarning,
                stacklevel=2,
            )

    @property
    def _eps(self) -> float:
        return self.eps or DEFAULT_EPS[self.kind]  # 0 is refused

    @hookimpl
    def build(self, assembly: Assembly) -> Conditions | None:
        """Check every chosen feature against the kind and the recipe's batch size; of ``whiten`` its condition is measured.

        Raises:
            StillhouseError: no link matches, an unknown layout, too few rows or channels for the statistics, or a
                shrinkage below 1e-3 where a whole batch has no more rows than channels.
        """
        faults: list[Fault] = []
        samples = assembly.recipe.samples_at_once // (1 if self.gather else parallel.count_launched())
        for link in assembly.match(self.links):
            for side in self._list_sides():
                try:
                    self._check(getattr(link, side), samples)
                except StillhouseError as error:
                    faults += error.within(f"link {link.name!r}, {side}").faults
        raise_faults(faults)
        return Conditions(self._eps, gather=self.gather) if self.kind == "whiten" else None

    def _check(self, x: Tensor, samples: int) -> None:
        width = channels(x)
        rows = x.numel() // (x.shape[0] * width) * samples
        if self.kind == "layer" and width < 2:
            raise StillhouseError("kind = 'layer' needs at least 2 channels, got 1", hint='take kind = "batch"')
        if self.kind in ("batch", "whiten"):
            require_two_rows(rows, self.kind)
        if self.kind == "whiten" and rows <= width and self._eps < SINGULAR_EPS:
            raise StillhouseError(
                f"must be >= {SINGULAR_EPS:g} for a singular covariance, got {self._eps:g}: {samples} samples at once give "
                f"{rows} rows of {width} channels, and the whitened rows would all be equally far from each other",
                where="eps",
                hint=f"or take more than {width} rows (a larger batch, or maps and tokens instead of pooled vectors)",
            )

    def _list_sides(self) -> tuple[Literal["teacher", "student"], ...]:
        return ("teacher", "student") if self.side == "both" else (self.side,)

    @hookimpl
    def transform(self, step: Step) -> None:
        """Replace the chosen sides of each link by their normalised features."""
        eps = self.eps or DEFAULT_EPS[self.kind]
        function = _normalize_gathered if self.gather and self.kind in OF_THE_BATCH else normalize
        links = step.match(self.links)
        together = None
        if self.kind == "layer" and self.side != "student" and len(links) >= MANY:
            together = standardise_together([link.teacher for link in links], eps)
        for index, link in enumerate(links):
            if self.kind == "whiten":
                for side in self._list_sides():
                    step.module(self).keep(f"condition_{side}/{link.name}", getattr(link, side))
            if self.side != "student":
                x = link.teacher
                link.teacher = together[index] if together else function(x, self.kind, eps, self.whitening)
            if self.side != "teacher":
                link.student = function(link.student, self.kind, eps, self.whitening)

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``condition_teacher/LINK``, ``condition_student/LINK``: of ``whiten``, what it takes the root of."""
        return dict(step.module(self).measure()) if self.kind == "whiten" else {}


def _normalize_gathered(x: Tensor, kind: Kind, eps: float, whitening: Whitening) -> Tensor:
    """Normalise the whole batch's features, and return this process's share."""
    return parallel.share(normalize(parallel.gather(x), kind, eps, whitening))
