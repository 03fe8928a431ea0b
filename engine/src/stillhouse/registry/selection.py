"""The plugin list that ``--plugins`` means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.overrides import _names, _value
from stillhouse.contract.plugin import option_names
from stillhouse.errors import StillhouseError
from stillhouse.registry.plugins import load

__all__ = ["choose_plugins"]


def choose_plugins(listed: Sequence[Mapping[str, Any]], text: str, base: Path | None = None) -> list[dict[str, Any]]:
    """The plugin list that ``--plugins features,projector=linear`` means.

    Names that the recipe lists keep the options they have there; ``name=value`` sets the plugin's main option (its
    ``shorthand``: ``kind`` for a projector, ``distance`` for features). An empty text is the empty list.

    Args:
        listed: the recipe's tables.
        text: the list.
        base: the recipe's folder, beside which the module of ``module:Class`` may lie.

    Raises:
        StillhouseError: a name that is neither listed nor installed.
    """
    chosen = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        table = next((dict(t) for t in listed if name in _names(t)), {"use": name})
        cls, _ = load(str(table["use"]), "--plugins", base)
        if value:
            if cls.shorthand not in option_names(cls):
                raise StillhouseError(
                    f"{name!r} has no main option to set to {value!r}", where="--plugins", hint="use --set"
                )
            table[cls.shorthand] = _value(value)
        chosen.append(table)
    return chosen
