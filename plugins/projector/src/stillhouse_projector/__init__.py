"""Projections between student and teacher features: linear, MLP and orthogonal, of either side."""

from __future__ import annotations

from stillhouse_projector.maps import RetractedMap, make_map
from stillhouse_projector.orthogonality import draw_haar, measure_orthogonality_error, retract
from stillhouse_projector.plugin import Projector
from stillhouse_projector.projectors import Projectors

__all__ = [
    "Projector",
    "Projectors",
    "RetractedMap",
    "draw_haar",
    "make_map",
    "measure_orthogonality_error",
    "retract",
]
