"""Projectors: one map per link, in one nn.Module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillhouse import StillhouseError
from stillhouse.layout import channels, format_shape, full_precision, map_rows
from stillhouse_projector.maps import RetractedMap
from stillhouse_projector.orthogonality import measure_orthogonality_error

__all__ = ["Projectors", "make_key", "restore_name"]

_PREFIX = "link:"


def make_key(link: str) -> str:
    """Make a key for ``nn.ModuleDict`` of a link's name; no two names share one.

    ``nn.Module`` refuses dots and the names of its own attributes: dots are percent-encoded, and the prefix keeps a
    link named ``keys`` from being taken for the method.
    """
    return _PREFIX + link.replace("%", "%25").replace(".", "%2E")


def restore_name(key: str) -> str:
    """Restore the link's name of which :func:`make_key` made ``key``."""
    return key.removeprefix(_PREFIX).replace("%2E", ".").replace("%25", "%")


class Projectors(nn.Module):
    """The projector's module: a map of rows for each link, applied in any layout.

    Args:
        maps: by link name, a module that takes rows (R, d_in) to rows (R, d_out).
        widths: by link name, d_in: what the features must have.
    """

    def __init__(self, maps: Mapping[str, nn.Module], widths: Mapping[str, int]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({make_key(name): module for name, module in maps.items()})
        self._widths = dict(widths)
        self._of_link = dict(maps)
        """The same maps by link: finding one in the ModuleDict takes as long as applying a small one."""

    def forward(self, link: str, x: Tensor) -> Tensor:
        """``x``, vectors (B, C), tokens (B, N, C) or maps (B, C, H, W), with its C channels mapped to d_out.

        Every row, token or position is mapped alike: on maps this is the 1x1 convolution with the same weight.
        Computed in the map's dtype, float32, whatever autocast says.

        Raises:
            StillhouseError: no map was built for ``link``, or ``x`` has another width or an unknown layout.
        """
        with full_precision(x):
            return self.project(link, x)

    def project(self, link: str, x: Tensor) -> Tensor:
        """:meth:`forward` where autocast is known to be off: with many links, to look for each takes as long as a small map."""
        width = self._widths.get(link)
        if x.ndim == 2 and x.dtype is torch.float32 and x.shape[1] == width:
            mapped: Tensor = self._of_link[link](x)
            return mapped
        if width is None:
            raise StillhouseError("has no projection", where=f"link {link!r}", hint="links are made at assembly")
        if channels(x) != width:
            raise StillhouseError(
                f"features must have the projection's {width} channels, got shape {format_shape(x)}",
                where=f"link {link!r}",
            )
        module = self._of_link[link]
        return map_rows(module, x.to(next(module.parameters()).dtype))

    def retract(self) -> None:
        """Put every map that is kept orthogonal by retraction back on its manifold."""
        for module in self.maps.values():
            if isinstance(module, RetractedMap):
                module.retract()

    @torch.no_grad()
    def measure_orthogonality_errors(self) -> dict[str, Tensor]:
        """Measure max |P^T P - I| by link name, for maps of one matrix: scalars on the device."""
        weights = {restore_name(key): getattr(module, "weight", None) for key, module in self.maps.items()}
        return {name: measure_orthogonality_error(w) for name, w in weights.items() if isinstance(w, Tensor)}
