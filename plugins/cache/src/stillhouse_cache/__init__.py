"""stillhouse-cache: any run's teacher, from a cache instead of from memory."""

from __future__ import annotations

from stillhouse_cache.plugin import Cache, Served

__all__ = ["Cache", "Served"]
