"""Packages that a logger needs and that need not be there."""

from __future__ import annotations

from importlib.util import find_spec

from stillhouse import StillhouseError

__all__ = ["require"]


def require(package: str) -> None:
    """Look for ``package`` without importing it, which takes seconds.

    Raises:
        StillhouseError: it is not installed, with the line that installs it.
    """
    spec = find_spec(package)
    # A folder of that name in the current one, as they leave behind, is found as a package without a file.
    if spec is None or spec.origin is None:
        hint = f"pip install 'stillhouse-loggers[{package}]'"
        raise StillhouseError(f"the package {package} is not installed", hint=hint)
