"""What authors subclass and receive: hooks, Plugin, Task, Step, Run. Part of the minimal engine.

Imports: config, distributed, the ground; never data, tasks or models.
Public: all.
"""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = 1
"""The number of the contract: what hooks are called with and may do. It grows where a plugin might have to be changed."""
