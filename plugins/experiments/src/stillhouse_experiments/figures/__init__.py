"""Figures and tables beside an experiment's own: one module each, with ``make(request)``.

Imports none of them: the command line lists their names.
"""

from __future__ import annotations

__all__ = ["FIGURES"]

FIGURES = ("angles", "axes", "collapse", "cost", "curves", "distance", "maps", "singular", "torchdistill")
"""The names by which plans and the command have them drawn. ``collapse``, ``maps`` and ``torchdistill`` need no plan."""
