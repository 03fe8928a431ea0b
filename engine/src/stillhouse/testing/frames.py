"""Whose code is running: the line of the author's that an operation comes from, and the hook that it is in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from stillhouse.contract.hookspecs import hook_arguments
from stillhouse.contract.plugin import Plugin

__all__ = ["Author"]

_ENGINE = Path(__file__).parents[1]
_KIT = Path(__file__).parent
_CALLERS = (_ENGINE / "loop", _ENGINE / "registry", _ENGINE / "assembly")
"""The engine's code that calls hooks: what is above it is none of the author's business."""
_TORCH = Path(sys.modules["torch"].__file__ or "").parent if "torch" in sys.modules else Path("torch")


class Author:
    """The code of a plugin: the package that its class is in, or its one module.

    Args:
        cls: the plugin's class.

    Attributes:
        modules: the loaded modules of that code.
    """

    def __init__(self, cls: type[Plugin]) -> None:
        self._top = cls.__module__.split(".")[0]
        top = sys.modules.get(self._top)
        is_package = hasattr(top, "__path__") and self._top != "stillhouse"
        self._prefix = f"{self._top}." if is_package else ""
        self._module = cls.__module__
        paths = [Path(p) for p in getattr(top, "__path__", [])] if is_package else []
        own = getattr(sys.modules.get(cls.__module__), "__file__", None)
        self._paths = [path.resolve() for path in paths] or ([Path(own).resolve()] if own else [])

    @property
    def modules(self) -> list[str]:
        """The names of its loaded modules."""
        if not self._prefix:
            return [self._module] if self._module in sys.modules else []
        return sorted(name for name in sys.modules if name == self._top or name.startswith(self._prefix))

    def wrote(self, filename: str) -> bool:
        """Whether the file is the author's."""
        path = Path(filename).resolve()
        return any(path == own or own in path.parents for own in self._paths)

    def find(self, *, innermost: bool = False) -> str:
        """``hook 'losses', plugin.py:42`` where the author's code has called what is running now; empty where it has not.

        Args:
            innermost: no code of the engine may lie between, as its own functions answer for themselves.
        """
        frame: FrameType | None = sys._getframe(1)
        line = hook = ""
        while frame is not None:
            name = frame.f_code.co_filename
            path = Path(name)
            if _KIT in path.parents or _TORCH in path.parents:
                frame = frame.f_back
                continue
            if any(caller in path.parents for caller in _CALLERS):
                break
            if self.wrote(name):
                line = line or f"{path.name}:{frame.f_lineno}"
                if frame.f_code.co_name in hook_arguments():
                    hook = frame.f_code.co_name
            elif innermost and not line and _ENGINE in path.parents:
                return ""
            frame = frame.f_back
        if not line:
            return ""
        return f"hook {hook!r}, {line}" if hook else line
