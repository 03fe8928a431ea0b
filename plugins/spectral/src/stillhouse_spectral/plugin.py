"""The plugin: the tail energy of one or several of the student's layers as a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from stillhouse import Fault, Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.step import Step, Tap
from stillhouse.distributed import processes as parallel
from stillhouse.errors import raise_faults
from stillhouse.layout import channels, format_shape
from stillhouse_spectral.energy import tail_energy
from stillhouse_spectral.rows import to_feature_rows
from stillhouse_spectral.warm_bases import WarmBases, follow, warm_tail_energy

__all__ = ["Spectral"]


@plugin
class Spectral(Plugin):
    """Penalise the energy of the student's features past their first ``rank`` directions; needs no teacher.

    Source: spectral regularisation, 2403.14494, section 3.5: the sum of sigma_i^2 for i >= rank, counted from 0, of the
    uncentred batch matrix, here divided by its number of elements. With several layers, each gives a term.

    Attributes:
        layer: the student's layer, a dotted path or a glob.
        rank: how many directions are kept free. 0 keeps none: the mean square of all activations, which is the control
            that tells spectral regularisation from plain shrinkage. Too small a rank collapses the features.
        method: ``exact``, or ``warm``: directions that follow the features from step to step, an approximation that
            costs far less and has an error of tens of percent where the spectrum is flat.
        pool: rows are samples (``mean`` over positions), or samples x positions (``none``).
        gather: with several processes, the singular values are those of the whole batch, gathered with gradient, as in
            one process; false takes each process's own share.
        weight: the factor of each layer's term.
    """

    shorthand = "rank"
    example: ClassVar[Mapping[str, Any]] = {"layer": "stage3", "rank": 2}

    layer: str
    rank: int
    method: Literal["exact", "warm"] = "exact"
    pool: Literal["mean", "none"] = "mean"
    gather: bool = True
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        if self.rank < 0:
            raise StillhouseError(f"must be a whole number >= 0, got {self.rank}", where="rank")

    @hookimpl
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """The student's layers."""
        try:
            return [Tap("student", layer) for layer in assembly.layers("student", self.layer)]
        except StillhouseError as error:
            raise error.within("layer") from None

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module | None:
        """The bases of ``warm``; nothing to hold for ``exact``.

        Raises:
            StillhouseError: ``rank`` takes in every direction there is, so that the term would always be 0, or the
                device has no float64 for ``exact``.
        """
        faults: list[Fault] = []
        widths = {}
        for layer in assembly.layers("student", self.layer):
            x = assembly.features["student"][layer]
            samples = assembly.recipe.samples_at_once // (1 if self.gather else parallel.count_launched())
            rows = to_feature_rows(x[:1], self.pool).shape[0] * samples
            widths[layer] = channels(x)
            count, kind = min((widths[layer], "channels"), (rows, "rows at once"))
            if self.rank >= count:
                faults.append(
                    Fault(
                        "rank",
                        f"must be below the {count} {kind} of the student's layer {layer!r}, {format_shape(x)}, got "
                        f"{self.rank}: the term would always be 0",
                    )
                )
        if self.method == "exact" and assembly.device.type == "mps":
            faults.append(Fault("method", "must be 'warm' on MPS, which has no float64 for 'exact'"))
        raise_faults(faults)
        return WarmBases(widths, self.rank) if self.method == "warm" and self.rank > 0 else None

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The tail energy per element: ``""`` for one layer, else by the layer's path."""
        terms = {}
        layers = step.tapped("student", self.layer)
        for layer, x in layers:
            rows = to_feature_rows(x, self.pool)
            if self.gather:
                rows = parallel.gather(rows)
            exact = self.method == "exact" or self.rank == 0
            term = tail_energy(rows, self.rank) if exact else self._warm_term(step, layer, rows)
            terms["" if len(layers) == 1 else layer] = term
            step.memo[self.name, layer] = term.detach()
        return terms

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``tail_fraction``: which share of the layer's energy the term penalises, 0 to 1, from the term itself."""
        found = {}
        layers = step.tapped("student", self.layer)
        for layer, x in layers:
            key = self.name if len(layers) == 1 else f"{self.name}/{layer}"
            if key in step.losses:  # not there while the weight is 0
                energy = to_feature_rows(x.detach(), self.pool).square().mean()
                # Of the part that the features are of; what is reported is of the whole batch.
                share = step.memo.get((self.name, layer), step.losses[key].detach()) / energy.clamp_min(1e-30)
                found["tail_fraction" if len(layers) == 1 else f"{layer}/tail_fraction"] = share
        return found

    def _warm_term(self, step: Step, layer: str, rows: Tensor) -> Tensor:
        module: WarmBases = step.module(self)
        buffer = module.basis(layer)
        if self.rank >= min(rows.shape):
            return warm_tail_energy(rows, buffer, self.rank)
        basis = follow(rows, buffer)
        if module.training:
            buffer.copy_(basis)
        return warm_tail_energy(rows, basis, self.rank)
