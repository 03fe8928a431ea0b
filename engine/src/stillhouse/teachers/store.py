"""Where what was trained or computed once is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Where trained teachers are kept: ``$STILLHOUSE_CACHE``, else ``stillhouse`` in the user's cache folder."""
    own = os.environ.get("STILLHOUSE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillhouse"
