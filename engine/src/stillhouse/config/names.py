"""Default names of plugins."""

from __future__ import annotations

import re

__all__ = ["default_name", "to_snake_case"]


def default_name(use: str) -> str:
    """Return the name of a plugin that a recipe does not name: its kind; of ``package.module:Class`` the class's."""
    return to_snake_case(use.rpartition(":")[2].rpartition(".")[2]) if ":" in use else use


def to_snake_case(name: str) -> str:
    """Convert ``SnakeCase`` to ``snake_case``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
