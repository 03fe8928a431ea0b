"""A recipe as the command line names it: a file, ``--plugins LIST`` and ``--set KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.overrides import apply_override, list_names, parse_value
from stillhouse.config.recipe import Recipe
from stillhouse.config.recipe_file import read_tables
from stillhouse.contract.plugin import option_names
from stillhouse.errors import StillhouseError
from stillhouse.registry.plugins import load

__all__ = ["choose_plugins", "load_recipe"]


def load_recipe(path: str | Path, *, overrides: Sequence[str] = (), plugins: str | None = None) -> Recipe:
    """Read a recipe from a TOML file, with another list of plugins.

    Args:
        path: the file.
        overrides: ``a.b=value`` each, as ``--set`` takes them; they reach plugins that only ``plugins`` names as well.
        plugins: a list as :func:`choose_plugins` takes it; None leaves the file's.

    Raises:
        StillhouseError: see :meth:`stillhouse.Recipe.load` and :func:`choose_plugins`.
    """
    file = Path(path)
    tables = read_tables(file)
    if plugins is not None:
        tables["plugins"] = choose_plugins(tables.get("plugins", []), plugins, file.parent)
    for override in overrides:
        apply_override(tables, override)
    return Recipe.from_dict(tables, base=file.parent, file=str(path))


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
        table = next((dict(t) for t in listed if name in list_names(t)), {"use": name})
        cls, _ = load(str(table["use"]), "--plugins", base)
        if value:
            if cls.shorthand not in option_names(cls):
                raise StillhouseError(
                    f"{name!r} has no main option to set to {value!r}", where="--plugins", hint="use --set"
                )
            table[cls.shorthand] = parse_value(value)
        chosen.append(table)
    return chosen
