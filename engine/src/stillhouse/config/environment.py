"""Variables of the environment in a recipe: ``${env:NAME}``, or ``${env:NAME:-value}`` with a value where it is not set."""

from __future__ import annotations

import os
import re
from typing import Any

from stillhouse.config.home import change_texts
from stillhouse.config.trust import guarded_source
from stillhouse.errors import StillhouseError

__all__ = ["expand_environment"]

_VARIABLE = re.compile(r"\$\{env:(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")


def expand_environment(tables: Any) -> Any:
    """Return plain tables in which each ``${env:NAME}`` within a text is what the environment says.

    Raises:
        StillhouseError: it is not set and has no default; its value has such a name itself; a stranger's recipe asks
            for it, and would write it into what is published.
    """
    return change_texts(tables, lambda text: _VARIABLE.sub(_get, text) if "${env:" in text else text)


def _get(found: re.Match[str]) -> str:
    name, default = found["name"], found["default"]
    if guarded_source() is not None:
        raise StillhouseError(f"a run's own recipe does not read the environment, got {found[0]!r}")
    value = os.environ.get(name, default)
    if value is None:
        raise StillhouseError(
            f"{found[0]!r}: the environment has no variable {name!r}",
            hint=f"export {name}=..., or ${{env:{name}:-value}}",
        )
    if "${env:" in value:
        raise StillhouseError(f"{found[0]!r}: a variable's value must not name another one, got {value!r:.60}")
    return value
