"""Projections between student and teacher features: linear, MLP and orthogonal, of either side."""

from __future__ import annotations

from stillhouse_projector.maps import Retracted, make_map
from stillhouse_projector.module import Projectors
from stillhouse_projector.orthogonal import haar, orthogonality_error, retract
from stillhouse_projector.plugin import Projector

__all__ = [
    "Projector",
    "Projectors",
    "Retracted",
    "haar",
    "make_map",
    "orthogonality_error",
    "retract",
]
